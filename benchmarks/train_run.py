"""Images per second of a whole training run, against a plain torch program that does the same.

    python benchmarks/train_run.py [--images 1024] [--rounds 2] [--batch 64] [--recipe NAME]

The plain program: a torch DataLoader with two workers over an ImageFolder of photographs of 500 x 375 px,
the published crops and flips by torchvision, and the loop that everyone writes. mvkit: ``mvkit train`` on
the betons of `imagenet_full` and `imagenet_64` of the same photographs, with its log and checkpoints. By
turns in one run; the clock runs over two epochs, of which the first contains all start-up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from photographs import write_photographs
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from mvkit.images.prep import load_prep_recipe, prepare
from mvkit.models.loading import build_for_training
from mvkit.pipeline.train import TrainRequest, run_training
from mvkit.recipes import load_recipe
from mvkit.training.recipe import Sgd, TrainRecipe

EPOCHS = 2
PREPARED = ("imagenet_full", "imagenet_64")


def plain_run(folder: Path, recipe: str, batch: int) -> float:
    """Train as a script would; return seconds."""
    settings = load_recipe(TrainRecipe, recipe)
    if not isinstance(settings.optimiser, Sgd):
        raise SystemExit("the plain loop knows SGD only")
    began = time.perf_counter()
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.Resize(64),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = datasets.ImageFolder(str(folder / "train"), transform)
    network = build_for_training(settings.model.architecture, n_classes=len(images.classes), seed=0)
    said = settings.optimiser
    optimiser = torch.optim.SGD(
        network.parameters(), said.learning_rate, momentum=said.momentum, weight_decay=said.weight_decay
    )
    for _ in range(EPOCHS):
        for views, labels in DataLoader(images, batch, shuffle=True, num_workers=2, drop_last=True):
            optimiser.zero_grad()
            functional.cross_entropy(network(views), labels).backward()
            optimiser.step()
    return time.perf_counter() - began


def mvkit_run(images: Path, recipe: str, batch: int) -> float:
    """Train by mvkit; return seconds."""
    with tempfile.TemporaryDirectory(prefix="mvkit-run-") as out:
        request = TrainRequest(
            recipe,
            overrides=(
                f"train.batch_size={batch}",
                f"train.epochs={EPOCHS}",
                "schedule={name: constant}",
                "evaluate=[]",
            ),
            images=images,
            out=Path(out) / "run",
            device="cpu",
        )
        began = time.perf_counter()
        run_training(request)
        return time.perf_counter() - began


def main() -> None:
    """Measure by turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--recipe", default="single_stream_supervised")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mvkit-train-run-") as temporary:
        folder = Path(temporary)
        write_photographs(folder, options.images)
        turns: dict[str, Callable[[], float]] = {
            "plain torch program": partial(plain_run, folder, options.recipe, options.batch)
        }
        for name in PREPARED:
            prepare(load_prep_recipe(name), folder, folder / name, workers=2)
            turns[f"mvkit, {name}"] = partial(mvkit_run, folder / name, options.recipe, options.batch)
        seconds: dict[str, list[float]] = {row: [] for row in turns}
        for _ in range(options.rounds):
            for row, turn in turns.items():
                seconds[row].append(turn())
        n_images = EPOCHS * (options.images // options.batch) * options.batch
        plain = seconds["plain torch program"]
        for row, measured in seconds.items():
            ratio = statistics.median(one / other for one, other in zip(plain, measured, strict=True))
            print(f"{row:24}{n_images / statistics.median(measured):8.1f} images/s  {ratio:6.2f}x")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's and multiprocessing's about themselves
        main()
