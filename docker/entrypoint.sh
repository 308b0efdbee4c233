#!/usr/bin/env bash
# Entry point of the training image: run a program of the image, or `bert-large` with these arguments.
#
# Usage: docker run IMAGE [OPTION | COMMAND [ARGUMENT ...]]
#   docker run IMAGE --version           bert-large --version
#   docker run IMAGE doctor              bert-large doctor
#   docker run IMAGE python3 -V          any program, as without an entry point
set -euo pipefail

if (($# > 0)) && [[ "$1" != -* ]] && type -P -- "$1" >/dev/null; then
  exec "$@"
fi
exec bert-large "$@"
