#!/usr/bin/env bash
# Install PyTorch for CPUs, with none of the CUDA packages, into a Python environment.
#
# Usage: docker/install_torch.sh PYTHON [VERSION]
#   PYTHON    the interpreter of the environment that gets torch
#   VERSION   version of torch (default 2.13.0)
#
# Optional variables: pip's own (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_TRUSTED_HOST, PIP_CERT).
#
# First pip is asked, configured as it is, for VERSION+cpu: only CPU builds carry that label, so nothing else can
# come. Where no configured index or folder has it, uv installs from PyTorch's own index for CPUs, which it knows.
set -euo pipefail

die() {
  printf 'install_torch.sh: error: %s\n' "$*" >&2
  exit 1
}

(($# == 1 || $# == 2)) || die "expected PYTHON [VERSION]"
readonly python="$1" version="${2:-2.13.0}"
scratch="$(mktemp -d)"
readonly scratch
trap 'rm -rf "$scratch"' EXIT

# Prints ok, absent, version (another version), or gpu.
installed_torch() {
  "$python" - "$version" <<'PYTHON'
import sys

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    print("absent")
else:
    if torch.version.cuda is not None or torch.version.hip is not None:
        print("gpu")
    else:
        print("ok" if torch.__version__.split("+")[0] == sys.argv[1] else "version")
PYTHON
}

install_with_pip() {
  "$python" -m pip install "torch==$version+cpu" 2>"$scratch/pip.log"
}

install_with_uv() {
  local certificates="${PIP_CERT:-${SSL_CERT_FILE:-}}"
  "$python" -m pip install --quiet --target "$scratch/uv" uv || return 1
  env ${certificates:+"SSL_CERT_FILE=$certificates"} ${PIP_INDEX_URL:+"UV_DEFAULT_INDEX=$PIP_INDEX_URL"} \
    "$scratch/uv/bin/uv" pip install --no-cache --python "$python" --torch-backend=cpu --reinstall-package torch \
    "torch==$version"
}

if [[ "$(installed_torch)" == ok ]]; then
  echo "torch $version for CPUs is installed already."
  exit 0
fi

echo "Installing torch $version for CPUs ..."
if ! install_with_pip; then
  echo "pip, as configured, has no torch $version+cpu; trying PyTorch's index for CPUs with uv."
  if ! install_with_uv; then
    cat "$scratch/pip.log" >&2
    die "torch $version for CPUs was not installed: neither pip as configured (torch==$version+cpu) nor uv from" \
      "PyTorch's index for CPUs (--torch-backend=cpu) got it. Give a package index that has it in" \
      "PIP_EXTRA_INDEX_URL, or a folder or page with its wheel in PIP_FIND_LINKS, and run this again."
  fi
fi

case "$(installed_torch)" in
  ok) ;;
  gpu) die "the torch installed in $python is built for GPUs: uninstall torch there and run this again" ;;
  *) die "torch $version was installed, but $python does not import it: is there another torch on PYTHONPATH?" ;;
esac
