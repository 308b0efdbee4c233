#!/usr/bin/env bash
# Install the oneCCL bindings for PyTorch, which are on no public index but Intel's own, into a Python environment.
#
# Usage: docker/install_oneccl.sh PYTHON VERSION MODE [INDEX_URL]
#   PYTHON      the interpreter of the environment that gets them
#   VERSION     their version: PyTorch's of that environment, to the minor number
#   MODE        auto: install them from INDEX_URL if it is given and has them, else do without;
#               required: fail without them; none: do without
#   INDEX_URL   package index that has oneccl_bind_pt
#
# Prints one line to standard output: "oneCCL VERSION", or why they are left out. pip's output goes to standard error.
set -euo pipefail

die() {
  printf 'install_oneccl.sh: error: %s\n' "$*" >&2
  exit 1
}

(($# == 3 || $# == 4)) || die "expected PYTHON VERSION MODE [INDEX_URL]"
readonly python="$1" version="$2" mode="$3" index_url="${4:-}"

# From that index alone: on a public one, anybody could give a package this name.
install() {
  env --unset=PIP_EXTRA_INDEX_URL --unset=PIP_FIND_LINKS \
    "$python" -m pip install --no-deps --index-url "$index_url" "oneccl_bind_pt==$version" >&2 &&
    "$python" -c 'import torch, oneccl_bindings_for_pytorch' >&2
}

leave_out() {
  [[ "$mode" != required ]] || die "ONECCL=required, but $1"
  # pip may have installed what cannot be imported.
  "$python" -m pip uninstall --quiet --yes oneccl_bind_pt >&2
  echo "without oneCCL ($1)"
}

case "$mode" in
  none) leave_out "ONECCL=none" ;;
  auto | required)
    if [[ -z "$index_url" ]]; then
      leave_out "ONECCL_INDEX_URL was not given"
    elif install; then
      echo "oneCCL $version"
    else
      leave_out "version $version could not be installed from ONECCL_INDEX_URL"
    fi
    ;;
  *) die "ONECCL=$mode is unknown: choose auto, required or none" ;;
esac
