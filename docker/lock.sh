#!/usr/bin/env bash
# Write docker/requirements-stock.txt and docker/requirements-ipex.txt: exact versions, with the SHA-256 of every file, of
# all Python packages in the base images besides PyTorch and IPEX, whose versions the Dockerfiles set. The requirements of
# the package (pyproject.toml), PyTorch and IPEX are resolved to the newest versions that fit. Also write
# docker/requirements-finetune.txt: the packages that FINETUNE=1 adds to either base, which keeps its own versions.
#
# Usage: docker/lock.sh
#
# Optional variables:
#   PYTHON   interpreter whose pip installs uv, the resolver, into a temporary folder (default python3)
#   pip's variables (PIP_INDEX_URL, PIP_CERT)
set -euo pipefail

cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
readonly python="${PYTHON:-python3}"
scratch="$(mktemp -d)"
readonly scratch
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip install --quiet --target "$scratch/tools" uv

resolve() {
  env ${PIP_CERT:+"SSL_CERT_FILE=$PIP_CERT"} ${PIP_INDEX_URL:+"UV_DEFAULT_INDEX=$PIP_INDEX_URL"} \
    "$scratch/tools/bin/uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-annotate "$@"
}

# lock BASE REQUIREMENT ...: these packages and those that the package needs, without PyTorch, IPEX, the libraries of GPU
# builds, and what training does not import: pandas and scipy (the checkers of mlperf-logging) and, without IPEX, networkx
# (the partitioner of PyTorch's compiler).
lock() {
  local base="$1" file="docker/requirements-$1.txt" unused=(pandas scipy)
  shift
  [[ "$base" == ipex ]] || unused+=(networkx)
  printf '%s\n' "$@" >"$scratch/base.in"
  printf '%s; sys_platform == "never"\n' "${unused[@]}" >"$scratch/override.in"
  resolve pyproject.toml --extra mlperf --override "$scratch/override.in" "$scratch/base.in" >"$scratch/all.txt"
  grep -vE '^(torch|triton|nvidia-|cuda-|intel-extension-for-pytorch)' "$scratch/all.txt" >"$scratch/kept.in"
  write_lock "$file" "Python packages of the $base base besides PyTorch"
}

# lock_finetune: the packages for fine-tuning that are not in both bases, without PyTorch, of which each has its own; pip
# adds networkx, which the stock base lacks, to any environment with PyTorch.
lock_finetune() {
  local bases=(docker/requirements-stock.txt docker/requirements-ipex.txt)
  echo 'torch; sys_platform == "never"' >"$scratch/override.in"
  echo networkx >"$scratch/more.in"
  resolve pyproject.toml "$scratch/more.in" --extra finetune --override "$scratch/override.in" "${bases[@]/#/--constraint=}" \
    >"$scratch/all.txt"
  grep -ohE '^[^ #]+==[^ ]+' "${bases[@]}" | sort | uniq -d >"$scratch/both.txt"
  grep -vxFf "$scratch/both.txt" "$scratch/all.txt" >"$scratch/kept.in"
  write_lock docker/requirements-finetune.txt "Python packages that FINETUNE=1 adds to either base"
}

# write_lock FILE CONTENT: lock the packages in kept.in, with the hashes of all their files.
write_lock() {
  {
    echo "# $2. Made by docker/lock.sh: run it again to renew them."
    resolve --no-deps --generate-hashes "$scratch/kept.in"
  } >"$scratch/lock.txt"
  mv "$scratch/lock.txt" "$1"
  echo "$1: $(grep -c == "$1") packages"
}

# default_of NAME FILE: the default of a build argument
default_of() {
  sed -n "s/^ARG $1=//p" "$2"
}

lock stock "torch==$(default_of TORCH_VERSION docker/stock.Dockerfile)"
# IPEX imports pkg_resources without declaring it; setuptools 81 and later no longer have it.
lock ipex "torch==$(default_of TORCH_VERSION docker/ipex.Dockerfile)" intel-openmp "setuptools<81" \
  "intel-extension-for-pytorch==$(default_of IPEX_VERSION docker/ipex.Dockerfile)"
lock_finetune
