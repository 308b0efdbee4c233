#!/usr/bin/env bash
# Remove the parts of an environment's packages that training does not use: symbol tables, about 90 MB; tests, about
# 65 MB; and PyTorch's headers, about 190 MB.
#
# Usage: docker/shrink.sh PYTHON
#   PYTHON   the interpreter of the environment that has torch
#
# Requires strip (Debian: binutils). The headers are needed once, to compile the native engine's kernels: they are kept in
# torch/include.tar.gz, which the training image's Dockerfile unpacks in its build stage.
set -euo pipefail

(($# == 1)) || {
  echo "shrink.sh: error: expected PYTHON" >&2
  exit 1
}
cd "$("$1" -c 'import importlib.util as util; print(util.find_spec("torch").submodule_search_locations[0])')"
find .. -type d \( -name tests -o -path '*/sympy/*/benchmarks' \) -prune -exec rm -r {} +
rm -rf test
find bin -type f ! -name torch_shm_manager -delete
find lib -name 'lib*torch*.so' -exec strip --strip-unneeded {} +
tar --create --gzip --file include.tar.gz --sort=name --mtime=@0 include
rm -r include
