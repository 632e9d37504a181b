"""Write a small labelled image set: crops of two real photographs, generated textures and shapes.

    python scripts/make_demo_images.py FOLDER [--train 1500] [--val 300] [--seed 0]

gives FOLDER/train/CLASS/NNNN.jpg and FOLDER/val/CLASS/NNNN.jpg. The photographs are those that
scikit-learn ships (china.jpg and flower.jpg); training crops come from their upper, validation
crops from their lower part. Nothing is downloaded, and equal arguments give equal images.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

Floats = NDArray[np.float64]
Painter = Callable[[np.random.Generator, int, int], Floats]

#: Sides of the images, as folders of photographs have them: of many sizes.
SIDES_PX = (96, 176)
#: Part of a photograph's height that training crops come from.
TRAIN_PART = 0.65
QUALITY = 92


def _grid(random: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Coordinates in units of the short side, around a random centre, turned by a random angle."""
    short = min(height, width)
    rows, columns = np.mgrid[:height, :width] / short
    rows = rows - random.uniform(0.35, 0.65) * height / short
    columns = columns - random.uniform(0.35, 0.65) * width / short
    angle = random.uniform(0, 2 * np.pi)
    return (
        np.cos(angle) * columns + np.sin(angle) * rows,
        np.cos(angle) * rows - np.sin(angle) * columns,
    )


def _cloud(random: np.random.Generator, height: int, width: int, *, slope: float) -> Floats:
    """Noise with the amplitude spectrum of natural scenes, 1 / frequency ** slope; 0 to 1."""
    spectrum = np.fft.rfft2(random.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    values = np.fft.irfft2(spectrum / frequency**slope, s=(height, width))
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low), 0, 1)


def _coloured(random: np.random.Generator, values: Floats) -> Floats:
    """Blend between two colours that differ; values 0 to 1, result (height, width, 3) in 0 to 255."""
    dark, light = random.uniform(0, 110, 3), random.uniform(120, 255, 3)
    return dark + (light - dark) * values[..., None]


def _background(random: np.random.Generator, height: int, width: int) -> Floats:
    return _coloured(random, _cloud(random, height, width, slope=random.uniform(0.9, 1.5)))


def _texture(pattern: Callable[[np.random.Generator, Floats, Floats], Floats]) -> Painter:
    """A pattern of the coordinates, in two colours, with noise over it."""

    def paint(random: np.random.Generator, height: int, width: int) -> Floats:
        across, along = _grid(random, height, width)
        values = 0.5 + 0.5 * pattern(random, across, along)
        noise = _cloud(random, height, width, slope=1.0)
        return _coloured(random, 0.75 * values + 0.25 * noise)

    return paint


def _shape(outline: Callable[[Floats], Floats]) -> Painter:
    """A filled shape, given by its radius at every angle, on a background of clouds."""

    def paint(random: np.random.Generator, height: int, width: int) -> Floats:
        across, along = _grid(random, height, width)
        size = random.uniform(0.2, 0.4)
        edge = size * outline(np.arctan2(along, across)) - np.hypot(across, along)
        inside = np.clip(0.5 + edge * min(height, width), 0, 1)[..., None]
        fill = _background(random, height, width) * 0.3 + random.uniform(0, 255, 3) * 0.7
        return inside * fill + (1 - inside) * _background(random, height, width)

    return paint


def _polygon(corners: int) -> Callable[[Floats], Floats]:
    step = 2 * np.pi / corners
    return lambda angle: np.cos(step / 2) / np.cos(np.mod(angle, step) - step / 2)


def _spots(random: np.random.Generator, across: Floats, along: Floats) -> Floats:
    period = random.uniform(0.12, 0.3)
    distance = np.hypot(np.mod(across, period) - period / 2, np.mod(along, period) - period / 2)
    return np.tanh((0.28 * period - distance) / (0.05 * period))


def _stripes(random: np.random.Generator, across: Floats, along: Floats) -> Floats:
    del along
    return np.sin(2 * np.pi * across / random.uniform(0.06, 0.25))


def _checks(random: np.random.Generator, across: Floats, along: Floats) -> Floats:
    period = random.uniform(0.15, 0.4)
    return np.tanh(4 * np.sin(2 * np.pi * across / period) * np.sin(2 * np.pi * along / period))


def _rings(random: np.random.Generator, across: Floats, along: Floats) -> Floats:
    return np.sin(2 * np.pi * np.hypot(across, along) / random.uniform(0.08, 0.25))


def _waves(random: np.random.Generator, across: Floats, along: Floats) -> Floats:
    bend = random.uniform(0.04, 0.1) * np.sin(2 * np.pi * along / random.uniform(0.25, 0.6))
    return np.sin(2 * np.pi * (across + bend) / random.uniform(0.08, 0.25))


#: Classes that are computed.
PAINTERS: Mapping[str, Painter] = {
    "checks": _texture(_checks),
    "clouds": _background,
    "disc": _shape(np.ones_like),
    "rings": _texture(_rings),
    "spots": _texture(_spots),
    "square": _shape(_polygon(4)),
    "star": _shape(lambda angle: 0.7 + 0.3 * np.cos(5 * angle)),
    "stripes": _texture(_stripes),
    "triangle": _shape(_polygon(3)),
    "waves": _texture(_waves),
}
#: Classes that are crops of a photograph: the position among scikit-learn's.
PHOTOGRAPHS: Mapping[str, int] = {"flower": 1, "temple": 0}


def _photographer(photograph: NDArray[np.uint8], split: str) -> Painter:
    """Crops of one part of a photograph at many scales, mirrored at random, brighter or darker."""
    border = int(TRAIN_PART * photograph.shape[0])
    part = photograph[:border] if split == "train" else photograph[border:]

    def paint(random: np.random.Generator, height: int, width: int) -> Floats:
        largest = min(part.shape[0] / height, part.shape[1] / width)
        scale = largest * random.uniform(0.3, 1.0)
        rows, columns = int(scale * height), int(scale * width)
        top = random.integers(0, part.shape[0] - rows + 1)
        left = random.integers(0, part.shape[1] - columns + 1)
        crop = part[top : top + rows, left : left + columns]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        resized = Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized, np.float64) * random.uniform(0.8, 1.2)

    return paint


def write_demo_images(folder: Path, *, n_train: int, n_val: int, seed: int = 0) -> int:
    """Write the image set; return the number of classes.

    Parameters
    ----------
    folder
        Gets ``train`` and ``val``; both appear only when they are complete.
    n_train, n_val
        Images of each split, spread evenly over the classes.
    seed
        Every image is drawn from (seed, split, class, number).
    """
    photographs = load_sample_images().images
    names = sorted([*PAINTERS, *PHOTOGRAPHS])
    for position, (split, count) in enumerate((("train", n_train), ("val", n_val))):
        unfinished = folder / f"{split}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for number in range(count):
            label = number % len(names)
            name = names[label]
            paint = PAINTERS.get(name) or _photographer(photographs[PHOTOGRAPHS[name]], split)
            random = np.random.default_rng([seed, position, label, number])
            height, width = random.integers(*SIDES_PX, size=2, endpoint=True)
            pixels = np.clip(np.rint(paint(random, height, width)), 0, 255).astype(np.uint8)
            target = unfinished / name / f"{number // len(names):04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target, quality=QUALITY)
        shutil.rmtree(folder / split, ignore_errors=True)
        unfinished.rename(folder / split)
    return len(names)


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--val", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    n_classes = write_demo_images(options.folder, n_train=options.train, n_val=options.val, seed=options.seed)
    print(f"wrote {options.train} + {options.val} images of {n_classes} classes to {options.folder}")


if __name__ == "__main__":
    main()
