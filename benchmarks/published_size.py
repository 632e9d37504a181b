"""Time and peak memory of every stage from a pickle of the published size to scores, page and figures.

    python benchmarks/published_size.py [--dataset neuropixels|calcium] [--splits 2] [--halves 20]

Neuropixels: 8,301 units of 31 animals; calcium: 40,064 cells of 251 animals; 118 images, 50 trials. The
pickle is made by code with tuned units (10 GB or 2 GB), converted, opened and scored as a user does it
(pixels, Gabor filters, an untrained AlexNet; every unit); scored again, which reads all scores from the cache
and so measures what is written; drawn. Each stage is a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from convert_pickle import recording, write_pickle
from process_tree import HEAD, MVKIT, Measured, run_measured

N_UNITS = {"neuropixels": 8_301, "calcium": 40_064}
CONVERT = """
import sys
from pathlib import Path
from mvkit.neural import convert_pickle
report = convert_pickle(Path(sys.argv[1]), Path(sys.argv[2]), dataset=sys.argv[3])
print(report.stored_as, report.n_units)
"""
OPEN = """
import sys, time
began = time.perf_counter()
import mvkit
dataset = mvkit.open_dataset(sys.argv[1], selection=sys.argv[2])
size = sum(one.responses.nbytes for one in dataset.recordings)
print(f"{dataset.n_units} units of {len(dataset.recordings)} recordings, {size / 1e6:.0f} MB")
"""
READ = """
import sys
from mvkit.scoring.results import read_models
for name, scores in read_models(__import__("pathlib").Path(sys.argv[1])).items():
    print(name, len(scores.columns["score"]), "rows")
"""
NAMES = ("pixels", "gabor", "alexnet_bn_ir (random, seed 0)")


def main() -> int:
    """Run all stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=tuple(N_UNITS), default="neuropixels")
    parser.add_argument("--units", type=int, default=None, help="default: as published")
    parser.add_argument("--splits", default="2")
    parser.add_argument("--halves", default="20")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--dir", type=Path, default=None, help="where all goes (default: temporary)")
    parser.add_argument("--file", type=Path, default=None, help="neural file: no conversion")
    parser.add_argument("--keep", type=Path, default=None, help="move the neural file there in the end")
    options = parser.parse_args()
    n_units = options.units or N_UNITS[options.dataset]
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="mvkit-published-") as name:
        folder = Path(name)
        file = options.file or convert(folder, options.dataset, n_units)
        problems = measure(folder, file, options)
        if options.keep:
            file.rename(options.keep)
    print("\n".join(problems) or "every stage did what it must")
    return 1 if problems else 0


def convert(folder: Path, dataset: str, n_units: int) -> Path:
    """Make a pickle, convert it, remove it; return the neural file."""
    pickled, file = folder / "published.pkl", folder / "published.h5"
    began = time.perf_counter()
    _, shape = write_pickle(pickled, recording(n_units, has_time=dataset == "neuropixels"))
    print(f"{dataset}: responses {shape}, a pickle of {pickled.stat().st_size / 1e9:.2f} GB", end=" ")
    print(f"made in {time.perf_counter() - began:.0f} s\n{HEAD}", flush=True)
    done = run_measured([sys.executable, "-c", CONVERT, str(pickled), str(file), dataset])
    print(done.line("convert and verify"), flush=True)
    if done.code:
        sys.exit(done.output[-2000:])
    print(f"  {file.stat().st_size / 1e6:.0f} MB; {done.output.strip().splitlines()[-1]}")
    pickled.unlink()
    return file


def measure(folder: Path, file: Path, options: argparse.Namespace) -> list[str]:
    """Run the stages after conversion; return what went wrong."""
    problems: list[str] = []
    out, page = folder / "scores", folder / "report.html"
    environment = {"MVKIT_HOME": str(folder / "home"), "MPLBACKEND": "agg"}

    def stage(what: str, *command: str, python: bool = False) -> Measured:
        done = run_measured(
            [sys.executable, "-c", *command] if python else [*MVKIT, *command], environment=environment
        )
        print(done.line(what), flush=True)
        if done.code:
            problems.append(f"{what}: exit code {done.code}\n{done.output[-2000:]}")
        return done

    for selection in ("code", "none"):
        opened = stage(f"open, selection {selection}", OPEN, str(file), selection, python=True)
        print(f"  {opened.output.strip().splitlines()[-1]}")
    score = ["score", "pixels", "gabor", "alexnet_bn_ir@random", "--recipe", "quick"]
    score += ["--dataset", str(file), "--selection", "none", "--splits", options.splits]
    score += ["--halves", options.halves, "--jobs", options.jobs]
    stage("score", *score)
    written = ("--out", str(out), "--report", str(page), "--json")
    stage("score --out --report --json, all cached", *score, *written)
    if page.exists():
        print(f"  page {page.stat().st_size / 1e6:.1f} MB")
        sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(out.rglob("*")) if path.is_file()}
        print("  " + ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items()))
    stage("read the scores", READ, str(out), python=True)
    two = ("--model", NAMES[0], "--model", NAMES[1])
    stage("plot areas", "plot", "areas", str(out), "--out", str(folder / "areas.png"))
    stage("plot units", "plot", "units", str(out), *two, "--out", str(folder / "units.pdf"))
    stage("plot unit", "plot", "unit", str(file), "--area", "VISp", "--out", str(folder / "unit.png"))
    for figure in sorted(folder.glob("*.p[nd][gf]")):
        print(f"  {figure.name} {figure.stat().st_size / 1e6:.2f} MB", end="")
    print()
    cache = sum(path.stat().st_size for path in (folder / "home").rglob("*") if path.is_file())
    n_files = sum(1 for path in (folder / "home").rglob("*") if path.is_file())
    print(f"cache: {cache / 1e6:.0f} MB in {n_files} files", flush=True)
    return problems


if __name__ == "__main__":
    sys.exit(main())
