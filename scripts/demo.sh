#!/bin/sh
# The main job on recordings whose truth is known: the true model must score about 1, pixels clearly less.
set -eu
bin=$1
out=$2
MVKIT_HOME="$(pwd)/$out/home"
export MVKIT_HOME
mkdir -p "$out"

say() { printf '\n$ mvkit %s\n' "$*"; "$bin/mvkit" "$@"; }

say fetch neural --dataset simulated
say extract gabor --stimuli simulated --out "$out/gabor.h5" --force
say score gabor --dataset simulated --splits 3 --halves 20 --out "$out/gabor"
say score pixels --dataset simulated --splits 3 --halves 20 --out "$out/pixels"
say score alexnet_bn_ir --weights random --layers features.3 --dataset simulated --splits 3 --halves 20 --out "$out/alexnet"
"$bin/python" scripts/check_demo.py "$out"
