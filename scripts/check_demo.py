"""Check that the demo recovered what is known of the simulated recordings, and that its network trained."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

#: The demo's images have 12 classes; neighbours of new ones must be of theirs clearly more often than chance.
CHANCE = 1 / 12


def main(folder: Path) -> int:
    """Compare the true model with pixels, and a trained network with its start; return an exit code."""
    names = ("gabor", "pixels", "alexnet", "trained")
    overall = {name: median_of(folder / name / "best_layers.csv") for name in names}
    top1 = accuracy(folder / "run" / "log.jsonl")
    print()
    print(f"true model (gabor)      {overall['gabor']:.3f}   expected: about 1")
    print(f"pixels                  {overall['pixels']:.3f}   expected: clearly less")
    print(f"random alexnet_bn_ir    {overall['alexnet']:.3f}")
    for area in ("ventral", "VISpor"):
        files = [folder / name / "summary.csv" for name in ("trained", "start")]
        trained, start = (layer_median(file, area) for file in files)
        print(f"demo network, {area:<9} {trained:.3f}   its random start: {start:.3f}")
    print(f"  class of new images   {top1:.3f}   by nearest neighbours, without labels; chance: {CHANCE:.3f}")
    print(
        "  (these neurons are Gabor energies, which random filters serve well; training lifts the last area)"
    )
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
    rows = _rows(path)
    return next(float(row["median"]) for row in rows if (row["area"], row["choice"]) == ("all", "paper"))


def layer_median(path: Path, layer: str) -> float:
    """Median score of a layer over all areas."""
    rows = _rows(path)
    return next(float(row["median"]) for row in rows if (row["layer"], row["area"]) == (layer, "all"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def accuracy(log: Path) -> float:
    """Accuracy of nearest neighbours after the last epoch."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    measured = [record for record in records if record["kind"] == "evaluation"]
    return float(measured[-1]["feature_neighbours.top1"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
