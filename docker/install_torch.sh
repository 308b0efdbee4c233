#!/usr/bin/env bash
# Install PyTorch for CPUs, without CUDA packages, into a Python environment.
#
# Usage: docker/install_torch.sh [--check] PYTHON [VERSION]
#   --check   install nothing; fail if the version is not available
#   PYTHON    the interpreter of the environment
#   VERSION   version of torch (default 2.13.0)
#
# Optional variables:
#   TORCH_BUILD   cpu (default), or any: if no build for CPUs is available, take the package index's build, which is for
#                 GPUs and has gigabytes of CUDA packages that a CPU never uses
#   pip's variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, PIP_TRUSTED_HOST, PIP_CERT)
#
# First pip, as configured, looks for VERSION+cpu: only builds for CPUs have that label. If no configured index or folder
# has it, uv installs from PyTorch's own index for CPUs, whose address it knows.
set -euo pipefail

die() {
  printf 'install_torch.sh: error: %s\n' "$*" >&2
  exit 1
}

mode=install
if [[ "${1:-}" == --check ]]; then
  mode=check
  shift
fi
(($# == 1 || $# == 2)) || die "expected [--check] PYTHON [VERSION]"
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
  if [[ "$mode" == check ]]; then
    "$python" -m pip index versions torch 2>"$scratch/pip.log" | grep -qE "[ ,]${version//./\\.}\\+cpu(,|\$)"
  else
    "$python" -m pip install --quiet "torch==$version+cpu" 2>"$scratch/pip.log"
  fi
}

# install_with_uv [OPTION ...]
install_with_uv() {
  local certificates="${PIP_CERT:-${SSL_CERT_FILE:-}}" dry_run=()
  [[ "$mode" == install ]] || dry_run=(--dry-run)
  [[ -x "$scratch/uv/bin/uv" ]] || "$python" -m pip install --quiet --target "$scratch/uv" uv || return 1
  env UV_SYSTEM_CERTS=true ${certificates:+"SSL_CERT_FILE=$certificates"} \
    ${PIP_INDEX_URL:+"UV_DEFAULT_INDEX=$PIP_INDEX_URL"} \
    "$scratch/uv/bin/uv" pip install --quiet --no-cache --python "$python" --reinstall-package torch "${dry_run[@]}" "$@" \
    "torch==$version"
}

install_for_cpus() {
  echo "Looking for torch $version for CPUs ..."
  install_with_pip && return
  echo "pip, as configured, does not find torch $version+cpu; trying PyTorch's index for CPUs with uv."
  install_with_uv --torch-backend=cpu
}

# Whether the installed torch is the requested one.
is_installed() {
  local found
  found="$(installed_torch)"
  [[ "$found" == ok || ("$found" == gpu && "$build" == any) ]]
}

if is_installed; then
  echo "torch $version is already installed."
  exit 0
fi

if ! install_for_cpus; then
  if [[ "$build" == any ]]; then
    echo "No build for CPUs is available; taking the package index's build, as TORCH_BUILD=any allows."
    install_with_uv || die "torch $version is not available: the package index does not have it"
  else
    cat "$scratch/pip.log" >&2
    die "torch $version for CPUs is not available: neither pip as configured (torch==$version+cpu) nor uv with" \
      "PyTorch's index for CPUs (--torch-backend=cpu) finds it. Name a package index that has it in" \
      "PIP_EXTRA_INDEX_URL, or a folder or page with its wheel in PIP_FIND_LINKS, or allow a build for GPUs," \
      "gigabytes larger, with TORCH_BUILD=any."
  fi
fi

[[ "$mode" == check ]] || is_installed ||
  case "$(installed_torch)" in
    gpu) die "the torch installed in $python is built for GPUs: uninstall torch there and run this again" ;;
    *) die "torch $version was installed, but $python does not import it: is there another torch on PYTHONPATH?" ;;
  esac
