"""CPU time and peak memory of preparing one layer of many images, beside plain decompositions.

    python benchmarks/many_images.py [--images 3000] [--features 6000] [--splits 2] [--decay 1.0] [--map pls]

Both sides turn features into the coordinates of a layer and then of each split. The plain rule is a QR
decomposition of the features and a singular value decomposition per split, both LAPACK's through numpy. Each
side is a process of its own, one thread, on the same simulated features: rectified, of latents whose
standard deviation falls as rank^-decay. Memory includes the features. Compared: train x train and
test x train inner products of the last split; exit code 1 if they differ by more than 1e-12 of the largest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from process_tree import HEAD, run_measured
from threadpoolctl import threadpool_limits

from mvkit.scoring.gram import layer_coordinates
from mvkit.scoring.maps import MAPS
from mvkit.scoring.protocol import image_splits
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
SIDES = ("mvkit", "plain")


def simulate(n_images: int, n_features: int, decay: float) -> NDArray[np.float32]:
    """Rectified mixtures of latents, float32 (n_images, n_features)."""
    rng = np.random.default_rng(0)
    n_latents = min(n_images, 2000)
    latents = rng.standard_normal((n_images, n_latents)) / np.arange(1, n_latents + 1) ** decay
    return np.maximum(latents @ rng.standard_normal((n_latents, n_features)), 0.0).astype(np.float32)


def prepare(side: str, options: argparse.Namespace) -> None:
    """Prepare the layer for every split, print the times, write the inner products of the last split."""
    features = simulate(options.images, options.features, options.decay)
    splits = image_splits(options.images, n_splits=options.splits, train_fraction=0.5)
    begin = time.process_time()
    if side == "mvkit":
        layer = layer_coordinates("layer", features)
    else:
        deviations = features - features.mean(axis=0, dtype=np.float64)
        coordinates = np.linalg.qr(deviations.T, mode="r").T
    middle = time.process_time()
    if side == "mvkit":
        settings = ScoreSettings(mapping=options.map)
        found = MAPS[options.map].prepare("layer", layer, splits, settings)[-1]
        basis, scale, test = found.basis, found.scale, found.test
    else:
        for split in splits:
            mean = coordinates[split.train].mean(axis=0)
            left, scale, right = np.linalg.svd(coordinates[split.train] - mean, full_matrices=False)
            basis, test = left.T, (coordinates[split.test] - mean) @ right.T
    per_split = (time.process_time() - middle) / options.splits
    train = basis.T * scale
    np.save(options.out / f"{side}.npy", [(train @ train.T)[:200], (test @ train.T)[:200]])
    print(f"{middle - begin:.2f} {per_split:.2f}")


def main() -> int:
    """Run both sides, print times, ratios and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--features", type=int, default=6000)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--decay", type=float, default=1.0)
    parser.add_argument("--map", choices=("pls", "ridge"), default="pls")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with threadpool_limits(1):
            prepare(options.side, options)
        return 0
    print(
        f"{options.images} images, {options.features} features, {options.splits} splits\n{HEAD}", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list[float]] = {}
        for side in SIDES:
            done = run_measured([sys.executable, *sys.argv, "--side", side, "--out", folder])
            print(done.line(side), flush=True)
            if done.code:
                sys.exit(done.output[-2000:])
            times[side] = [float(number) for number in done.output.split()[-2:]]
        ours, theirs = (np.load(Path(folder) / f"{side}.npy") for side in SIDES)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    for what, mine, plain in zip(("layer", "a split"), *times.values(), strict=True):
        print(f"{what}: {mine:.2f} s CPU, plain {plain:.2f} s: {mine / plain:.2f} of it")
    print(f"largest difference of inner products {difference:.1e} of the largest one")
    return 1 if difference > 1e-12 else 0


if __name__ == "__main__":
    sys.exit(main())
