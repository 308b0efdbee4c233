#!/usr/bin/env bash
# Remove the parts of an installed PyTorch that training does not use: its C++ tests, and its headers, about 190 MB.
#
# Usage: docker/shrink_torch.sh PYTHON
#   PYTHON   the interpreter of the environment that has torch
#
# The headers are needed once, to compile the native engine's kernels: they are kept in torch/include.tar.gz, which the
# training image's Dockerfile unpacks in its build stage.
set -euo pipefail

(($# == 1)) || {
  echo "shrink_torch.sh: error: expected PYTHON" >&2
  exit 1
}
cd "$("$1" -c 'import importlib.util as util; print(util.find_spec("torch").submodule_search_locations[0])')"
rm -rf test
find bin -type f ! -name torch_shm_manager -delete
tar --create --gzip --file include.tar.gz --sort=name --mtime=@0 include
rm -r include
