#!/usr/bin/env bash
# Install PyTorch for CPUs, with none of the CUDA packages, into a Python environment.
#
# Usage: docker/install_torch.sh PYTHON [VERSION]
#   PYTHON    the interpreter of the environment that gets torch
#   VERSION   version of torch (default 2.13.0)
#
# Optional variables:
#   TORCH_BUILD   cpu (default), or any: where no build for CPUs can be had, take what the package index has, which is a
#                 build for GPUs with gigabytes of CUDA packages that a CPU never uses
#   pip's own (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_TRUSTED_HOST, PIP_CERT)
#
# First pip is asked, configured as it is, for VERSION+cpu: only CPU builds carry that label, so nothing else can
# come. Where no configured index or folder has it, uv installs from PyTorch's own index for CPUs, which it knows.
set -euo pipefail

die() {
  printf 'install_torch.sh: error: %s\n' "$*" >&2
  exit 1
}

(($# == 1 || $# == 2)) || die "expected PYTHON [VERSION]"
readonly python="$1" version="${2:-2.13.0}" build="${TORCH_BUILD:-cpu}"
[[ "$build" == @(cpu|any) ]] || die "TORCH_BUILD=$build is unknown: choose cpu or any"
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
    if torch.__version__.split("+")[0] != sys.argv[1]:
        print("version")
    else:
        print("ok" if torch.version.cuda is None and torch.version.hip is None else "gpu")
PYTHON
}

install_with_pip() {
  "$python" -m pip install "torch==$version+cpu" 2>"$scratch/pip.log"
}

# install_with_uv [OPTION ...]
install_with_uv() {
  local certificates="${PIP_CERT:-${SSL_CERT_FILE:-}}"
  [[ -x "$scratch/uv/bin/uv" ]] || "$python" -m pip install --quiet --target "$scratch/uv" uv || return 1
  env UV_SYSTEM_CERTS=true ${certificates:+"SSL_CERT_FILE=$certificates"} \
    ${PIP_INDEX_URL:+"UV_DEFAULT_INDEX=$PIP_INDEX_URL"} \
    "$scratch/uv/bin/uv" pip install --no-cache --python "$python" --reinstall-package torch "$@" "torch==$version"
}

install_for_cpus() {
  echo "Installing torch $version for CPUs ..."
  install_with_pip && return
  echo "pip, as configured, has no torch $version+cpu; trying PyTorch's index for CPUs with uv."
  install_with_uv --torch-backend=cpu
}

# Whether the torch that is installed will do.
is_installed() {
  local found
  found="$(installed_torch)"
  [[ "$found" == ok || ("$found" == gpu && "$build" == any) ]]
}

if is_installed; then
  echo "torch $version is installed already."
  exit 0
fi

if ! install_for_cpus; then
  if [[ "$build" == any ]]; then
    echo "No build for CPUs can be had; taking what the package index has, as TORCH_BUILD=any allows."
    install_with_uv || die "torch $version was not installed: the package index does not have it"
  else
    cat "$scratch/pip.log" >&2
    die "torch $version for CPUs was not installed: neither pip as configured (torch==$version+cpu) nor uv from" \
      "PyTorch's index for CPUs (--torch-backend=cpu) got it. Give a package index that has it in" \
      "PIP_EXTRA_INDEX_URL, or a folder or page with its wheel in PIP_FIND_LINKS, or allow a build for GPUs," \
      "gigabytes larger, with TORCH_BUILD=any, and run this again."
  fi
fi

is_installed ||
  case "$(installed_torch)" in
    gpu) die "the torch installed in $python is built for GPUs: uninstall torch there and run this again" ;;
    *) die "torch $version was installed, but $python does not import it: is there another torch on PYTHONPATH?" ;;
  esac
