"""Time, memory and size of a beton of 200,000 images: planned, interrupted, made, verified, read.

    python benchmarks/large_beton.py [--images 200000] [--dir DIR]

Small JPEGs, every one another, in 100 classes. ``mvkit prep`` is run as a user runs it: ``--dry-run``, with
three images that cannot be read (which must be named), stopped by Ctrl-C after about a third of the images,
with ``--on-error skip``, again (nothing to do), ``--verify``; then an epoch of the loader's batches is read
in random order and in the order of the file.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from process_tree import HEAD, MVKIT, Measured, run_measured

N_CLASSES = 100
SIZE = (80, 64)
#: Images that are spoilt: cut short, no image at all, empty.
BAD = (7, 99_991, 150_003)

EPOCH = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from mvkit.images.loader import open_images
from mvkit.images.settings import ColourJitter, Flip, Greyscale, RandomResizedCrop, View, ViewsSettings
from mvkit.images.views import ViewMaker
began = time.perf_counter()
source = open_images(Path(sys.argv[1]), "train")
opened = time.perf_counter() - began
order = np.arange(source.n_images)
if sys.argv[2] == "random":
    np.random.default_rng(0).shuffle(order)
view = View(crop=RandomResizedCrop(scale=(0.2, 1.0)),
            steps=(Greyscale(probability=0.2),
                   ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4), Flip()))
settings = ViewsSettings(views=(view,))
maker = ViewMaker(settings, seed=0, device=torch.device("cpu"))
crops = [(one.crop, settings.size_px) for one in settings.each()]
plan = [order[first : first + 256] for first in range(0, len(order), 256)]
seen, labels = 0, 0
with source.batches(plan, crops, seed=0, epoch=0, workers=2) as batches:
    for raw in batches:
        batch = maker(raw, epoch=0)
        seen += len(batch.index)
        labels += int(batch.label.sum())
print(json.dumps({"opened": opened, "seen": seen, "labels": labels, "seconds": time.perf_counter() - began}))
"""


def write_images(folder: Path, n_images: int, *, workers: int = 2) -> int:
    """Write ``folder/train/class_NN/*.jpg``, every one another; return their bytes."""
    for number in range(N_CLASSES):
        (folder / "train" / f"class_{number:02}").mkdir(parents=True, exist_ok=True)
    parts = [(folder, first, min(first + 2000, n_images)) for first in range(0, n_images, 2000)]
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(_write_part, *zip(*parts, strict=True)))


def _write_part(folder: Path, first: int, last: int) -> int:
    rng = np.random.default_rng(first)
    written = 0
    for number in range(first, last):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        written += image_path(folder, number).write_bytes(buffer.getvalue())
    return written


def image_path(folder: Path, number: int) -> Path:
    """Return the path of an image."""
    return folder / "train" / f"class_{number % N_CLASSES:02}" / f"{number:06}.jpg"


def spoil(folder: Path, n_images: int) -> list[Path]:
    """Make three images unreadable."""
    paths = [image_path(folder, number % n_images) for number in BAD]
    content = paths[0].read_bytes()
    for path, bad in zip(paths, (content[: len(content) // 2], b"this is no image" * 40, b""), strict=True):
        path.write_bytes(bad)
    return paths


def interrupted(command: list[str], seconds: float) -> tuple[int, str]:
    """Run a command, press Ctrl-C after a while, and return its exit code and output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def main() -> int:
    """Run all stages and print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dir", type=Path, default=None, help="where all goes (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="mvkit-large-") as name:
        folder = Path(name)
        began = time.perf_counter()
        n_bytes = write_images(folder / "images", options.images)
        seconds = time.perf_counter() - began
        print(f"{options.images} JPEGs of {n_bytes / 1e6:.0f} MB written in {seconds:.0f} s", flush=True)
        return measure(folder, options.images)


def measure(folder: Path, n_images: int) -> int:
    """Run the stages on images that are there; return 0 if each did what it must."""
    images, out = folder / "images", folder / "beton"
    prep = [*MVKIT, "prep", "imagenet_64", "--images", str(images), "--out", str(out)]
    problems: list[str] = []
    print(HEAD, flush=True)

    def stage(what: str, command: list[str], code: int = 0) -> Measured:
        done = run_measured(command)
        print(done.line(what), flush=True)
        if done.code != code:
            problems.append(f"{what}: exit code {done.code}, expected {code}:\n{done.output[-2000:]}")
        return done

    stage("prep --dry-run", [*prep, "--dry-run"])
    bad = spoil(images, n_images)
    failing = stage("prep with 3 unreadable images", prep, code=1)
    named = [path for path in bad if str(path.relative_to(images)) in failing.output]
    if len(named) != 3:
        problems.append(f"{len(named)} of 3 unreadable images named:\n{failing.output[-2000:]}")
    code, said = interrupted(prep, failing.seconds / 3)
    left = sorted(path.name for path in out.glob("*")) if out.is_dir() else []
    print(
        f"interrupted after {failing.seconds / 3:.0f} s: exit code {code}, left: {', '.join(left) or 'none'}"
    )
    if code != 130 or any(name.endswith((".beton", ".json")) or "tmp" in name for name in left):
        problems.append(f"interrupted: exit code {code}, files {left}\n{said[-2000:]}")
    stage("prep --on-error skip (after Ctrl-C)", [*prep, "--on-error", "skip"])
    stage("prep again (nothing to do)", [*prep, "--on-error", "skip"])
    stage("prep --verify", [*MVKIT, "prep", "--verify", str(out / "train.beton")])
    size = (out / "train.beton").stat().st_size
    print(f"train.beton: {size / 1e9:.2f} GB")
    labels = set()
    for order in ("random", "file"):
        done = stage(f"epoch in {order} order", [sys.executable, "-c", EPOCH, str(out), order])
        if done.code == 0:
            report = json.loads(re.findall(r"^\{.*\}$", done.output, re.MULTILINE)[-1])
            labels.add((report["seen"], report["labels"]))
            print(f"  opened in {report['opened']:.2f} s, {report['seen'] / report['seconds']:.0f} images/s")
    if (labels and {seen for seen, _ in labels} != {n_images - 3}) or len(labels) > 1:
        problems.append(f"epochs saw (images, sum of labels): {labels}")
    print("\n".join(problems) or "every stage did what it must")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
