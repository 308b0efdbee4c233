#!/usr/bin/env bash
# Check the packages of a Python environment, or whether a package can be installed into it.
#
# Usage: docker/check_packages.sh PYTHON
#   Fail if a requirement of an installed package is missing. mlperf-logging may lack pandas and scipy, which only its
#   checkers import, not its logger; torch may lack networkx, which only its compiler's partitioner imports.
# Usage: docker/check_packages.sh --available PYTHON NAME==VERSION [OPTION OF pip index ...]
#   Fail if pip, as configured, does not find this version for this Python. Downloads nothing.
set -euo pipefail

die() {
  printf 'check_packages.sh: error: %s\n' "$*" >&2
  exit 1
}

check_installed() {
  local found
  found="$("$1" -m pip check || true)"
  found="$(grep -vE '^(No broken requirements found|(mlperf-logging .* requires (pandas|scipy)|torch .* requires networkx), which is not installed)\.$' \
    <<<"$found")" || return 0
  die "$found"
}

# is_available PYTHON NAME==VERSION [OPTION ...]
is_available() {
  local python="$1" name="${2%%==*}" version="${2#*==}" found
  shift 2
  found="$("$python" -m pip index versions "$name" "$@" 2>&1)" || die "$name $version is not available: ${found##*$'\n'}"
  [[ " ${found//,/ } " == *[[:space:]]"$version"[[:space:]]* ]] ||
    die "$name $version is not available for $("$python" --version): $(grep '^Available' <<<"$found")"
}

if [[ "${1:-}" == --available ]]; then
  (($# >= 3)) || die "expected --available PYTHON NAME==VERSION [OPTION ...]"
  shift
  is_available "$@"
else
  (($# == 1)) || die "expected PYTHON"
  check_installed "$1"
fi
