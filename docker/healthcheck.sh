#!/usr/bin/env bash
# Check whether the training run of this container makes progress, for HEALTHCHECK or the probe of an orchestrator. Exit
# code 0 and the last line of the run's log if the log is recent, otherwise 1 and the reason. A container without
# OUTPUT_DIR does not train and is healthy.
#
# Variables:
#   OUTPUT_DIR               folder of the run, as run.sh passes it; if it is set, it must be a folder
#   HEALTH_MAX_AGE_SECONDS   largest age of the log's last line (default 1800). A run writes a line at least every 30
#                            seconds, or on a terminal one per step
set -euo pipefail

readonly max_age="${HEALTH_MAX_AGE_SECONDS:-1800}"
readonly log="${OUTPUT_DIR:-}/train.log"

# Seconds since the container's first process started: field 22 of its line, in hundredths of a second since boot.
container_age() {
  local line fields uptime
  line="$(</proc/1/stat)"
  read -r -a fields <<<"${line##*) }"
  read -r uptime _ </proc/uptime
  echo $((${uptime%.*} - fields[19] / 100))
}

if [[ ! "$max_age" =~ ^(0|[1-9][0-9]{0,11})$ ]]; then
  echo "HEALTH_MAX_AGE_SECONDS=$max_age is not a whole number of seconds"
  exit 1
fi
if [[ -z "${OUTPUT_DIR:-}" ]]; then
  echo "no training run: OUTPUT_DIR is not set"
  exit 0
fi
if [[ ! -d "$OUTPUT_DIR" ]]; then
  echo "OUTPUT_DIR=$OUTPUT_DIR is not a folder in this container"
  exit 1
fi
age="$(container_age)" # a starting run may find the old log of an earlier start
last_line="no line yet"
if [[ -f "$log" ]]; then
  log_age=$(($(date +%s) - $(stat --format %Y -- "$log")))
  age=$((log_age < age ? log_age : age))
  last_line="$(tail -n 1 -- "$log")"
fi
if ((age > max_age)); then
  echo "no progress for $age s, more than $max_age: $last_line"
  exit 1
fi
echo "$last_line"
