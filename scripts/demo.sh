#!/bin/sh
# The main job on recordings whose truth is known (the true model must score about 1, pixels clearly less), then
# the way of a network: images, training for a few minutes, and its score beside that of its random start.
set -eu
bin=$1
out=$2
MVKIT_HOME="$(pwd)/$out/home"
export MVKIT_HOME
mkdir -p "$out"

say() { printf '\n$ mvkit %s\n' "$*"; "$bin/mvkit" "$@"; }
layers="--layers VISp --layers ventral --layers VISpor"

say fetch neural --dataset simulated
say extract gabor --stimuli simulated --out "$out/gabor.h5" --force
say score gabor --dataset simulated --splits 3 --halves 20 --out "$out/gabor"
say score pixels --dataset simulated --splits 3 --halves 20 --out "$out/pixels"
say score alexnet_bn_ir --weights random --layers features.3 --dataset simulated --splits 3 --halves 20 --out "$out/alexnet"

"$bin/python" scripts/make_demo_images.py "$out/images"
images=
if "$bin/python" -c "import sys; from mvkit.images.beton import has_ffcv; sys.exit(not has_ffcv())"; then
    say prep demo --images "$out/images"
else
    echo "FFCV is not installed: training reads the image files"
    images="--images $out/images"
fi
# shellcheck disable=SC2086 # options are words
say train demo $images ${MVKIT_DEMO_EPOCHS:+--set train.epochs=$MVKIT_DEMO_EPOCHS} --out "$out/run"
# shellcheck disable=SC2086
say score "$out/run" $layers --dataset simulated --splits 3 --halves 20 --out "$out/trained"
# shellcheck disable=SC2086
say score "$out/run" --weights random $layers --dataset simulated --splits 3 --halves 20 --out "$out/start"
"$bin/python" scripts/check_demo.py "$out"
