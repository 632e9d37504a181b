"""Check that the demo recovered what is known of the simulated recordings."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path) -> int:
    """Compare the true model with pixels; return an exit code."""
    overall = {name: median_of(folder / name / "summary.json") for name in ("gabor", "pixels", "alexnet")}
    print()
    print(f"true model (gabor)      {overall['gabor']:.3f}   expected: about 1")
    print(f"pixels                  {overall['pixels']:.3f}   expected: clearly less")
    print(f"random alexnet_bn_ir    {overall['alexnet']:.3f}")
    if not (overall["gabor"] > 0.9 and overall["pixels"] < overall["gabor"] - 0.2):
        print("error: the pipeline does not recover the simulated truth", file=sys.stderr)
        return 1
    print("the pipeline recovers the simulated truth")
    return 0


def median_of(path: Path) -> float:
    """Median score over all areas, each with its best layer."""
    best = json.loads(path.read_text())["best_layers"]
    return next(float(row["median"]) for row in best if row["area"] == "all")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
