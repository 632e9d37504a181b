"""An image folder that loads as ImageNet does: JPEGs of 500 x 375 px with the detail of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = (500, 375)
N_CLASSES = 10
SCENES = Path(__file__).parents[2] / "shared" / "real_neuropixels" / "stimuli"


def write_photographs(folder: Path, n_images: int, *, seed: int = 0) -> None:
    """Write ``folder/train/<class>/*.jpg``: crops of photographs, natural scenes (if present), textures."""
    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    scenes = [Image.open(path).convert("RGB") for path in sorted(SCENES.glob("*.png"))[:20]]
    for number in range(n_images):
        kind = number % 4
        if kind < 2 or (kind == 2 and not scenes):
            image = _part(photographs[int(rng.integers(len(photographs)))], rng)
        elif kind == 2:
            image = _tinted(_part(scenes[int(rng.integers(len(scenes)))], rng), rng)
        else:
            image = _texture(rng)
        path = folder / "train" / f"class_{number % N_CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)


def _part(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random part of at least three quarters of an image."""
    width = rng.uniform(0.75, 1.0) * min(image.width, image.height * SIZE[0] / SIZE[1])
    height = width * SIZE[1] / SIZE[0]
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _tinted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Colour a grey scene, evenly over its width, so that its JPEG has colour to decode."""
    pixels = np.asarray(image, np.float32)
    ends = rng.uniform(0.6, 1.0, (2, 3)).astype(np.float32)
    across = np.linspace(0, 1, pixels.shape[1], dtype=np.float32)[:, None]
    return Image.fromarray((pixels * (ends[0] * across + ends[1] * (1 - across))).astype(np.uint8))


def _texture(rng: np.random.Generator) -> Image.Image:
    """Return noise whose amplitude falls with frequency, as in natural images."""
    width, height = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / np.maximum(frequency, 1 / width)
        values = np.fft.irfft2(spectrum, s=(height, width))
        channels.append(128 + 45 * (values - values.mean()) / values.std())
    return Image.fromarray(np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8))
