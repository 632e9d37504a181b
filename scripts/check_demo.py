"""Check that the demo recovered what is known of the simulated recordings, and that its network trained."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

#: Images of the demo have 12 classes; the trained bank must find the right one clearly more often than chance.
CHANCE = 1 / 12


def main(folder: Path) -> int:
    """Compare the true model with pixels, and a trained network with its start; return an exit code."""
    names = ("gabor", "pixels", "alexnet", "trained", "start")
    overall = {name: median_of(folder / name / "summary.json") for name in names}
    top1 = accuracy(folder / "run" / "log.jsonl")
    print()
    print(f"true model (gabor)      {overall['gabor']:.3f}   expected: about 1")
    print(f"pixels                  {overall['pixels']:.3f}   expected: clearly less")
    print(f"random alexnet_bn_ir    {overall['alexnet']:.3f}")
    print(f"trained demo network    {overall['trained']:.3f}   its random start: {overall['start']:.3f}")
    print(f"  nearest neighbour     {top1:.3f}   of the class of new images; chance: {CHANCE:.3f}")
    if not (overall["gabor"] > 0.9 and overall["pixels"] < overall["gabor"] - 0.2):
        print("error: the pipeline does not recover the simulated truth", file=sys.stderr)
        return 1
    if not (top1 > 2 * CHANCE and math.isfinite(overall["trained"])):
        print("error: the demo network has not learned", file=sys.stderr)
        return 1
    print("the pipeline recovers the simulated truth, and the network learned")
    return 0


def median_of(path: Path) -> float:
    """Median score over all areas, each with its best layer."""
    best = json.loads(path.read_text())["best_layers"]
    return next(float(row["median"]) for row in best if row["area"] == "all")


def accuracy(log: Path) -> float:
    """Accuracy of the nearest neighbour in the bank after the last epoch."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    measured = [record for record in records if record["kind"] == "evaluation"]
    return float(measured[-1]["bank_neighbours.top1"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
