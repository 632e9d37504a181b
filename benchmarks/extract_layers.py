"""Features of all published layers in one pass, and features in a file, against what others do.

The reference implementation ran the network once per layer and batch. Here the same layers are taken both
ways from the same network and images, on one thread, and compared. Then the convolutions of AlexNet for JPEG
files (at 224 px, about 2 MB an image, on the disk of ``--dir``) by mvkit, by a plain loop with hooks that
writes raw files as it goes, and by torchvision's feature_extraction, which holds all of them until the end:
whole processes in turn, medians of ``--rounds``; ``--files 2000`` are 4 GB. Usage::

    python benchmarks/extract_layers.py [MODEL ...] [--images 118] [--files 500] [--rounds 3] [--dir DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from photographs import write_photographs
from PIL import Image
from record import Record, add_record_option
from torch import Tensor, nn
from torchvision import models, transforms
from torchvision.models.feature_extraction import create_feature_extractor

import mvkit
from mvkit.features import tappable_layers

BATCH_SIZE = 64
REPEATS = 3
#: The convolutions of torchvision's AlexNet.
CONVOLUTIONS = tuple(f"features.{number}" for number in (0, 3, 6, 8, 10))


def one_pass_per_layer(model: nn.Module, inputs: Tensor, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A forward hook on one layer, all batches, then the next layer."""
    paths = tappable_layers(model)
    features = {}
    for layer in layers:
        rows: list[np.ndarray] = []
        handle = model.get_submodule(paths[layer]).register_forward_hook(
            lambda module, arguments, output, rows=rows: rows.append(output.flatten(1).numpy().copy())
        )
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH_SIZE):
                model(inputs[start : start + BATCH_SIZE])
        handle.remove()
        features[layer] = np.concatenate(rows)
    return features


def cpu_seconds(work: Callable[[], object]) -> float:
    """Least CPU time of a few repeats."""
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def compare(name: str, n_images: int, record: Record) -> None:
    """Report both times, their ratio and the largest difference relative to a layer's largest value."""
    model = mvkit.load_model(name, weights="random")
    images = np.random.default_rng(0).integers(0, 256, (n_images, 64, 64), dtype=np.uint8)
    inputs = model.preprocess(images)
    together = mvkit.extract(model, inputs, batch_size=BATCH_SIZE)
    apart = one_pass_per_layer(model, inputs, together.layers)
    worst = max(np.abs(together[layer] - apart[layer]).max() / np.abs(apart[layer]).max() for layer in apart)
    t_together = cpu_seconds(lambda: mvkit.extract(model, inputs, batch_size=BATCH_SIZE))
    t_apart = cpu_seconds(lambda: one_pass_per_layer(model, inputs, together.layers))
    print(
        f"{name}: {len(apart)} layers, {n_images} images: one pass {t_together:.2f} s CPU, "
        f"one pass per layer {t_apart:.2f} s CPU, "
        f"ratio {t_apart / t_together:.1f}, largest difference {worst:.1e}"
    )
    record.add(
        "Features",
        f"{name}, {len(apart)} layers of {n_images} images of 64 px",
        peer="torch, one pass per layer",
        mvkit=t_together,
        other=t_apart,
        unit="s CPU",
        note=f"largest difference {worst:.0e} of a layer's largest value",
    )


def mvkit_to_file(images: Path, out: Path) -> None:
    """Extract with mvkit, with its default batches."""
    model = mvkit.load_model("torchvision:alexnet", weights="random")
    mvkit.features.extract_to_file(model, images, out / "features.h5", CONVOLUTIONS)


def hooks_to_files(images: Path, out: Path) -> None:
    """Write raw float32 in forward hooks, before AlexNet's ReLUs change what a convolution gave in place."""
    model = models.alexnet().eval()

    def write(layer: str, values: Tensor) -> None:
        with (out / layer).open("ab") as file:
            file.write(values.numpy().data)

    for layer in CONVOLUTIONS:
        model.get_submodule(layer).register_forward_hook(
            lambda module, arguments, output, layer=layer: write(layer, output)
        )
    for batch in _batches(images):
        model.features(batch)


def torchvision_to_files(images: Path, out: Path) -> None:
    """Collect what torchvision's feature_extraction returns (after ReLUs in place), then save it."""
    model = create_feature_extractor(models.alexnet().eval(), list(CONVOLUTIONS))
    collected: dict[str, list[np.ndarray]] = {layer: [] for layer in CONVOLUTIONS}
    for batch in _batches(images):
        for layer, values in model(batch).items():
            collected[layer].append(values.flatten(1).numpy())
    for layer, parts in collected.items():
        np.save(out / layer, np.concatenate(parts))


def _batches(images: Path) -> Iterator[Tensor]:
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    prepare = transforms.Compose([*steps, transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    paths = sorted(images.iterdir())
    with torch.no_grad():
        for start in range(0, len(paths), 32):
            yield torch.stack([prepare(Image.open(path)) for path in paths[start : start + 32]])


WAYS = {"mvkit": mvkit_to_file, "hook loop": hooks_to_files, "torchvision": torchvision_to_files}


def run_way(way: str, images: Path, folder: Path) -> tuple[float, float, float]:
    """Run one way as a process; return its CPU seconds, wall seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, __file__, "--way", way, str(images), out])
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{way} failed")
        wall_s = time.perf_counter() - began
    return used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024


def compare_files(n_images: int, rounds: int, folder: Path, record: Record) -> None:
    """Print time and memory of every way, and mvkit's ratios."""
    write_photographs(folder, n_images)
    images = folder / "images"
    images.mkdir()
    for path in folder.glob("train/*/*.jpg"):
        path.rename(images / path.name)
    measured: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            measured[way].append(run_way(way, images, folder))
    for way, runs in measured.items():
        cpu_s, wall_s, peak = (statistics.median(run[i] for run in runs) for i in range(3))
        pairs = list(zip(measured["mvkit"], runs, strict=True))
        cpu, wall = (statistics.median(ours[i] / theirs[i] for ours, theirs in pairs) for i in (0, 1))
        print(
            f"{way:12} {n_images} images to files: {cpu_s:.1f} s CPU, {wall_s:.1f} s, peak {peak:.0f} MB; "
            f"mvkit takes {cpu:.2f} of its CPU time, {wall:.2f} of its time"
        )
        if way != "mvkit":
            ours_peak = statistics.median(run[2] for run in measured["mvkit"])
            record.add(
                "Features",
                f"AlexNet's convolutions of {n_images} JPEG files at 224 px, to files",
                peer=way,
                mvkit=[run[0] for run in measured["mvkit"]],
                other=[run[0] for run in runs],
                unit="s CPU",
                note=f"whole processes; peak memory {ours_peak:.0f} against {peak:.0f} MB",
            )


def main() -> None:
    """Run the comparisons."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--way"]:
        way, images, out = sys.argv[2:]
        WAYS[way](Path(images), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["alexnet_bn_ir", "dual_stream_ir"])
    parser.add_argument("--images", type=int, default=118)
    parser.add_argument("--files", type=int, default=500, help="images of the comparison with files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="where files go (default: temporary)")
    add_record_option(parser)
    arguments = parser.parse_args()
    for name in arguments.models:
        compare(name, arguments.images, arguments.record)
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="mvkit-extract-") as folder:
        compare_files(arguments.files, arguments.rounds, Path(folder), arguments.record)


if __name__ == "__main__":
    main()
