"""Images per CPU second of mvkit's loader, FFCV's Loader of the same files, and torchvision's v2 transforms.

    python benchmarks/loader_peers.py [--images 2000] [--rounds 2] [--dir DIR] [--record FILE]

Random resized crops to 64 px and flips ("plain"), with brightness, contrast and saturation ("jitter"), and
with hue and greyscale as well ("colours", which FFCV lacks). FFCV reads a field once per Loader, so that two
views take two. One worker and one torch thread each; FFCV's second Loader has a thread of its own. Both sides
take turns, and their first turns, which compile and fill the page cache, do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from loader import BATCH, Repeated, measure
from photographs import write_photographs
from record import add_record_option
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from mvkit.images.loader import ImageSource, open_images
from mvkit.images.prep import PrepSettings, prepare
from mvkit.images.settings import ColourJitter, Flip, Greyscale, RandomResizedCrop, View, ViewsSettings
from mvkit.images.views import ViewMaker

#: Heading of the table in docs/benchmarks.md.
TASK = "Loading"
SIDE, SCALE, STRENGTH = 64, (0.2, 1.0), 0.4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: (name, short side stored, format).
BETONS: tuple[tuple[str, int, Literal["raw", "jpeg"]], ...] = (
    ("beton, raw 128 px", 128, "raw"),
    ("beton, JPEG 256 px", 256, "jpeg"),
)
STEPS = {
    "plain": (Flip(),),
    "jitter": (ColourJitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH), Flip()),
    "colours": (
        Greyscale(probability=0.2),
        ColourJitter(brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH, hue=STRENGTH),
        Flip(),
    ),
}


def with_mvkit(source: ImageSource, kind: str, n_views: int) -> Iterator[object]:
    """Yield the batches of one epoch."""
    settings = ViewsSettings(
        views=(View(crop=RandomResizedCrop(scale=SCALE), steps=STEPS[kind], copies=n_views),)
    )
    maker = ViewMaker(settings, seed=0, device=torch.device("cpu"))
    crops = [(one.crop, settings.size_px) for one in settings.each()]
    order = np.random.default_rng(0).permutation(source.n_images)
    plan = [order[first : first + BATCH] for first in range(0, len(order) - BATCH + 1, BATCH)]
    with source.batches(plan, crops, seed=0, epoch=0, workers=1) as batches:
        for raw in batches:
            yield maker(raw, epoch=0)


def ffcv_loader(path: Path, kind: str) -> Iterable[object]:
    """Return FFCV's own Loader of a beton of mvkit."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomBrightness,
        RandomContrast,
        RandomHorizontalFlip,
        RandomSaturation,
        ToTensor,
        ToTorchImage,
    )

    jitter = [RandomBrightness(STRENGTH), RandomContrast(STRENGTH), RandomSaturation(STRENGTH)]
    pipeline = [
        RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=SCALE),
        RandomHorizontalFlip(),
        *(jitter if kind == "jitter" else ()),
        NormalizeImage(255 * np.array(MEAN), 255 * np.array(DEVIATION), np.float32),
        ToTensor(),
        ToTorchImage(convert_back_int16=False),
    ]
    return Loader(
        str(path),
        batch_size=BATCH,
        num_workers=1,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": pipeline, "label": None, "index": None},
    )


def with_ffcv(loaders: Sequence[Iterable[object]]) -> Iterator[object]:
    """Yield the batches of one epoch, of one Loader a view."""
    yield from zip(*loaders, strict=True)


def torchvision_loader(folder: Path, kind: str, n_views: int) -> Iterable[object]:
    """Return a DataLoader over an ImageFolder with torchvision's v2 transforms."""
    colours = [v2.RandomGrayscale(0.2), v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH, STRENGTH)]
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(SIDE, scale=SCALE),
            *(colours if kind == "colours" else ()),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )
    images = datasets.ImageFolder(str(folder / "train"), Repeated(transform, n_views))
    return DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=1, drop_last=True)


Turn = Callable[[], Iterable[object]]


def jobs(folder: Path) -> dict[str, tuple[str, Turn, Turn]]:
    """Return what is compared: job -> (peer, a turn of mvkit's, a turn of the peer's)."""
    found: dict[str, tuple[str, Turn, Turn]] = {}
    files = open_images(folder, "train")
    for kind, n_views in (("plain", 1), ("colours", 1), ("colours", 2)):
        found[job_name("image files", kind, n_views)] = (
            "torchvision",
            partial(with_mvkit, files, kind, n_views),
            partial(torchvision_loader, folder, kind, n_views),
        )
    if not importlib.util.find_spec("ffcv"):
        return found
    for name, short_side_px, form in BETONS:
        out = folder / "betons" / form
        settings = PrepSettings(name="benchmark", short_side_px=short_side_px, format=form)
        prepare(settings, folder, out, workers=1)
        source = open_images(out, "train")
        beton = next(out.glob("train*.beton"))
        for kind in ("plain", "jitter"):
            # Compiled at their first epoch; made once.
            first, second = ffcv_loader(beton, kind), ffcv_loader(beton, kind)
            for n_views, loaders in ((1, (first,)), (2, (first, second))):
                found[job_name(name, kind, n_views)] = (
                    "ffcv",
                    partial(with_mvkit, source, kind, n_views),
                    partial(with_ffcv, loaders),
                )
    return found


def job_name(name: str, kind: str, n_views: int) -> str:
    """Return the words for a job."""
    return f"{name}, {kind}, {n_views} view{'s' if n_views > 1 else ''}"


def main() -> None:
    """Measure all jobs by turns and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=None, help="where the images go (default: temporary)")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.record.has_peer("ffcv", TASK, "betons")
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="mvkit-loader-") as temporary:
        folder = Path(temporary)
        write_photographs(folder, options.images)
        for job, (peer, ours, theirs) in jobs(folder).items():
            rates = [tuple(measure(turn())[1] for turn in (ours, theirs)) for _ in range(options.rounds + 1)][
                1:
            ]
            mvkit, other = ([pair[side] for pair in rates] for side in (0, 1))
            ratio = np.median(np.divide(mvkit, other))
            print(
                f"{job:36} mvkit {np.median(mvkit):6.0f}, {peer} {np.median(other):6.0f}: {ratio:.2f}x",
                flush=True,
            )
            options.record.add(
                TASK, job, peer=peer, mvkit=mvkit, other=other, unit="images/CPU second", better="higher"
            )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's and multiprocessing's about themselves
        main()
