"""Images per second from disk to network input, against the predecessor's pipeline in the same run.

    python benchmarks/loader.py [--images 2000] [--rounds 5] [--workers 2] [--dir DIR] [--plain] [--files]

The predecessor: a torch DataLoader over an ImageFolder of photographs of 500 x 375 px; RandomResizedCrop to
224, RandomGrayscale, ColorJitter, flip, Resize to 64, ToTensor, Normalize. mvkit: the same views of the same
photographs, from the files and from betons. torchvision v2: the same DataLoader over the same files with
transforms.v2 and the crop resized to 64 px at once, which costs less. ``--plain``: crops and flips only;
``--files``: no betons. One view and two views of every image; a ratio compares with the
predecessor's pipeline making as many. All are measured by turns in every round, on the same cores, and ratios
are medians over rounds: a busy machine slows both sides. The clock starts with the second batch. CPU time (of
all threads and worker processes, per image) says the same where other programs take the cores away.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from photographs import write_photographs
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from mvkit.images.loader import ImageSource, open_images
from mvkit.images.prep import PrepSettings, prepare
from mvkit.images.settings import (
    ColourJitter,
    Flip,
    Greyscale,
    RandomResizedCrop,
    Step,
    View,
    ViewsSettings,
)
from mvkit.images.views import ViewMaker

BATCH = 256
#: (row, short side stored, format).
STORED: tuple[tuple[str, int, Literal["raw", "jpeg"]], ...] = (
    ("beton 64 raw", 64, "raw"),
    ("beton 96 raw", 96, "raw"),
    ("beton 128 raw", 128, "raw"),
    ("beton 128 JPEG", 128, "jpeg"),
    ("beton 256 JPEG", 256, "jpeg"),
)
STEPS: tuple[Step, ...] = (
    Greyscale(probability=0.2),
    ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    Flip(),
)
#: What is asked of the rows with one view (judged item 3).
NEEDED = {"beton 64 raw": 15.0, "beton 96 raw": 15.0, "beton 256 JPEG": 5.0}


class Repeated:
    """A transform applied several times to the same decoded image, as the predecessor did for two views."""

    def __init__(self, transform: Callable[[object], torch.Tensor], n_views: int) -> None:
        self.transform, self.n_views = transform, n_views

    def __call__(self, image: object) -> tuple[torch.Tensor, ...]:
        return tuple(self.transform(image) for _ in range(self.n_views))


NORMALISATION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def predecessor_transform(*, plain: bool) -> Callable[[object], torch.Tensor]:
    """Return the pipeline that mvkit replaces."""
    colour = [transforms.RandomGrayscale(p=0.2), transforms.ColorJitter(0.4, 0.4, 0.4, 0.4)]
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            *([] if plain else colour),
            transforms.RandomHorizontalFlip(),
            transforms.Resize(64),
            transforms.ToTensor(),
            transforms.Normalize(*NORMALISATION),
        ]
    )


def v2_transform(*, plain: bool) -> Callable[[object], torch.Tensor]:
    """Return the same views, with one resize, by torchvision's transforms.v2."""
    colour = [v2.RandomGrayscale(p=0.2), v2.ColorJitter(0.4, 0.4, 0.4, 0.4)]
    return v2.Compose(
        [
            v2.RandomResizedCrop(64, scale=(0.2, 1.0)),
            *([] if plain else colour),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*NORMALISATION),
        ]
    )


PEERS = {"predecessor": predecessor_transform, "torchvision v2": v2_transform}


def torchvision_views(
    folder: Path, transform: Callable[[object], torch.Tensor], *, n_views: int, workers: int
) -> Iterable[object]:
    """Return a DataLoader over the image files."""
    images = datasets.ImageFolder(str(folder / "train"), Repeated(transform, n_views))
    return DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)


def mvkit_views(
    source: ImageSource, steps: tuple[Step, ...], *, n_views: int, workers: int, n_images: int
) -> Iterator[object]:
    """Yield mvkit's batches of ``n_images`` images, some more than once."""
    view = View(crop=RandomResizedCrop(scale=(0.2, 1.0)), steps=steps, copies=n_views)
    settings = ViewsSettings(views=(view,))
    maker = ViewMaker(settings, seed=0, device=torch.device("cpu"))
    crops = [(one.crop, settings.size_px) for one in settings.each()]
    order = np.random.default_rng(0).permutation(np.arange(n_images) % source.n_images)
    plan = [order[first : first + BATCH] for first in range(0, n_images - BATCH + 1, BATCH)]
    with source.batches(plan, crops, seed=0, epoch=0, workers=workers) as batches:
        for raw in batches:
            yield maker(raw, epoch=0)


def cpu_s() -> float:
    """Return the CPU time of this process and of those that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(batches: Iterable[object]) -> tuple[float, float]:
    """Return images per second, from the second batch on, and images per second of CPU time."""
    cpu_began = cpu_s()
    iterator = iter(batches)
    next(iterator)
    began = time.perf_counter()
    n_batches = sum(1 for _ in iterator)
    wall_s = time.perf_counter() - began
    del iterator  # ends the predecessor's workers, so that their time counts
    return n_batches * BATCH / wall_s, (n_batches + 1) * BATCH / (cpu_s() - cpu_began)


def open_sources(folder: Path, workers: int, *, files_only: bool) -> dict[str, ImageSource]:
    """Prepare betons of all kinds; return every way in which mvkit reads the images."""
    sources = {"mvkit, image files": open_images(folder, "train")}
    for row, short_side_px, form in () if files_only else STORED:
        out = folder / "betons" / row.replace(" ", "_")
        settings = PrepSettings(name="benchmark", short_side_px=short_side_px, format=form)
        prepare(settings, folder, out, workers=workers)
        sources[row] = open_images(out, "train")
    return sources


def main() -> None:
    """Measure all rows by turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=None, help="where the images go (default: temporary)")
    parser.add_argument("--plain", action="store_true", help="crops and flips only")
    parser.add_argument("--files", action="store_true", help="image files only, no betons")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="mvkit-loader-") as temporary:
        folder = Path(temporary)
        write_photographs(folder, arguments.images)
        sources = open_sources(folder, arguments.workers, files_only=arguments.files)
        steps = (Flip(),) if arguments.plain else STEPS
        rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds + 1):
            for row, n_views in ((row, n) for n in (1, 2) for row in (*PEERS, *sources)):
                if row in PEERS:
                    transform = PEERS[row](plain=arguments.plain)
                    batches = torchvision_views(folder, transform, n_views=n_views, workers=arguments.workers)
                else:
                    # About as long as the predecessor takes: fast rows read the images several times.
                    n_images = arguments.images * (1 if "files" in row else 4)
                    batches = mvkit_views(
                        sources[row], steps, n_views=n_views, workers=arguments.workers, n_images=n_images
                    )
                rates.setdefault((row, n_views), []).append(measure(batches))
                print(f"{row}, {n_views}: {rates[row, n_views][-1][0]:.0f} images/s", file=sys.stderr)
    print(f"\n{torch.get_num_threads()} threads, {arguments.workers} workers, {arguments.rounds} rounds")
    columns = {
        "views": 6,
        "images/s": 10,
        "ratio": 7,
        "(range)": 15,
        "needed": 8,
        "CPU us": 8,
        "CPU ratio": 11,
    }
    print(" " * 20 + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for (row, n_views), measured in rates.items():
        # The first round compiles and fills the page cache.
        pairs = list(zip(measured, rates["predecessor", n_views], strict=True))[1:]
        ratios, cpu_ratios = ([one[i] / other[i] for one, other in pairs] for i in (0, 1))
        speed, cpu_speed = (statistics.median(one[i] for one, _ in pairs) for i in (0, 1))
        needed = f"{NEEDED[row]:.0f}" if n_views == 1 and row in NEEDED else ""
        span = f"({min(ratios):.1f}-{max(ratios):.1f})"
        print(
            f"{row:20}{n_views:6}{speed:10.0f}{statistics.median(ratios):7.1f}{span:>15}{needed:>8}"
            f"{1e6 / cpu_speed:8.0f}{statistics.median(cpu_ratios):11.1f}"
        )
    for n_views in (1, 2):
        files, peer = rates["mvkit, image files", n_views][1:], rates["torchvision v2", n_views][1:]
        wall, cpu = (statistics.median(a[i] / b[i] for a, b in zip(files, peer, strict=True)) for i in (0, 1))
        print(
            f"image files / torchvision v2, {n_views} view(s): images/s {wall:.2f}, per CPU second {cpu:.2f}"
        )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's and multiprocessing's about themselves
        main()
