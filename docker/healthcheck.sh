#!/usr/bin/env bash
# Tell whether the training run of this container makes progress, for HEALTHCHECK or an orchestrator's probe: exit code
# 0 and the last line of the run's log if the log is young enough, else 1 and why. A container that does not train is
# healthy.
#
# Variables:
#   OUTPUT_DIR               the run's folder, as run.sh passes it
#   HEALTH_MAX_AGE_SECONDS   how old the log's last line may be (default 1800). A run writes one at every step and every
#                            30 seconds within, but on a terminal at every step alone
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

if [[ -z "${OUTPUT_DIR:-}" || ! -d "$OUTPUT_DIR" ]]; then
  echo "no training run: OUTPUT_DIR is not set, or not here"
  exit 0
fi
age="$(container_age)" # a run that starts may find the log of an earlier start
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
