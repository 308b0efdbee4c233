#!/usr/bin/env bash
# Install the oneCCL bindings for PyTorch, which only Intel's own package index has, into a Python environment.
#
# Usage: docker/install_oneccl.sh [--check] PYTHON VERSION MODE [INDEX_URL]
#   --check     install nothing; fail if MODE is required and the version is not available
#   PYTHON      the interpreter of the environment
#   VERSION     version of the bindings, whose minor version must be that of PyTorch
#   MODE        auto: install them if INDEX_URL is given and has them; required: fail without them; none: omit them
#   INDEX_URL   package index that has oneccl_bind_pt
#
# Prints one line to standard output: "oneCCL VERSION", or why they are omitted. pip's output goes to standard error.
set -euo pipefail

die() {
  printf 'install_oneccl.sh: error: %s\n' "$*" >&2
  exit 1
}

check=""
if [[ "${1:-}" == --check ]]; then
  check=yes
  shift
fi
(($# == 3 || $# == 4)) || die "expected [--check] PYTHON VERSION MODE [INDEX_URL]"
readonly python="$1" version="$2" mode="$3" index_url="${4:-}"

# Only that index is used: on a public one, anyone could publish a package of this name.
pip_from_index() {
  env --unset=PIP_EXTRA_INDEX_URL --unset=PIP_FIND_LINKS "$python" -m pip "$@" --index-url "$index_url"
}

install() {
  pip_from_index install --no-deps "oneccl_bind_pt==$version" >&2 &&
    "$python" -c 'import torch, oneccl_bindings_for_pytorch' >&2
}

# Versions may have a local label, such as 2.7.0+cpu.
is_available() {
  pip_from_index index versions oneccl_bind_pt | grep -qE "[ ,]${version//./\\.}(\\+[^, ]*)?(,|\$)"
}

omit() {
  [[ "$mode" != required ]] || die "ONECCL=required, but $1"
  # pip may have installed bindings that cannot be imported.
  "$python" -m pip uninstall --quiet --yes oneccl_bind_pt >&2
  echo "without oneCCL ($1)"
}

[[ "$mode" == @(auto|required|none) ]] || die "ONECCL=$mode is unknown: choose auto, required or none"
if [[ -n "$check" ]]; then
  [[ "$mode" == required ]] || exit 0
  [[ -n "$index_url" ]] || omit "ONECCL_INDEX_URL was not given"
  is_available || omit "ONECCL_INDEX_URL does not have version $version"
  exit 0
fi
case "$mode" in
  none) omit "ONECCL=none" ;;
  *)
    if [[ -z "$index_url" ]]; then
      omit "ONECCL_INDEX_URL was not given"
    elif install; then
      echo "oneCCL $version"
    else
      omit "version $version could not be installed from ONECCL_INDEX_URL"
    fi
    ;;
esac
