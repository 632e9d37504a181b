"""Natural-looking grey images, drawn by code.

Each scene is painted from back to front with opaque, textured surfaces that
cover each other: a sky, ridges of land, trunks, and leaves of many sizes. Such
occlusion models (Matheron's dead leaves; Lee, Mumford & Huang 2001, Int. J.
Comput. Vision 41:35) have what matters of photographs to a bank of filters:
edges, regions of their own brightness and texture, and structure at every
scale. The number and kind of surfaces differ from scene to scene.

All images are painted at once, surface by surface, which takes about a second
for 118 of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE_PX = 64
N_RIDGES = 3
N_TRUNKS = 4
LEAF_RADII_PX = tuple(float(r) for r in np.geomspace(26, 3, 40))
N_TEXTURES = 4
TEXTURE_CONTRAST = (0.08, 0.05, 0.035, 0.025)

Stack = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Easel:
    """The images being painted and what all surfaces share."""

    canvas: Stack
    textures: Stack
    draws: np.random.RandomState

    @property
    def n_images(self) -> int:
        return len(self.canvas)

    def uniform(self, low: float, high: float, *shape: int) -> Stack:
        """Draw per image, shaped to broadcast over its pixels."""
        return low + (high - low) * self.draws.random_sample((self.n_images, *shape, 1, 1))

    def normal(self, scale: float) -> Stack:
        return scale * self.draws.standard_normal((self.n_images, 1, 1))

    def paint(self, cover: Stack, brightness: Stack, chosen: NDArray[np.int64] | None = None) -> None:
        """Cover part of images with surfaces that have their own texture.

        ``cover`` (0 to 1) and ``brightness`` belong to the chosen images (None: all).
        """
        strength = self.draws.standard_normal((self.n_images, N_TEXTURES)) * TEXTURE_CONTRAST
        images = np.arange(self.n_images) if chosen is None else chosen
        under = self.canvas[images]
        surface = brightness - under
        for index in range(N_TEXTURES):
            surface += strength[images, index, None, None] * self.textures[images, index]
        self.canvas[images] = under + cover * surface


def scene_images(n_images: int, seed: int) -> NDArray[np.uint8]:
    """Draw scenes.

    Parameters
    ----------
    n_images
        Number of images. The images of a shorter series are other ones.
    seed
        Of numpy's legacy Mersenne Twister, whose stream is frozen (NEP 19).

    Returns
    -------
    uint8 (n_images, 64, 64)
        Grey levels.
    """
    draws = np.random.RandomState(seed)
    easel = _Easel(np.zeros((n_images, SIZE_PX, SIZE_PX)), _textures(n_images, draws), draws)
    y = np.arange(SIZE_PX, dtype=np.float64)[:, None]
    horizon = easel.uniform(-0.3, 1.0) * SIZE_PX
    light = easel.uniform(0.35, 0.85)
    easel.paint(np.ones((1, 1, 1)), light + easel.uniform(-0.3, 0.2) * (1 - y / SIZE_PX))
    for depth in range(N_RIDGES):
        _paint_ridge(easel, horizon + depth * easel.uniform(4, 18), light)
    n_trunks = easel.uniform(-2, N_TRUNKS)
    for index in range(N_TRUNKS):
        _paint_trunk(easel, light, present=n_trunks > index)
    density = easel.uniform(0, 1) ** 1.5
    palette = easel.normal(0.12) + light - 0.1
    for radius in LEAF_RADII_PX:
        _paint_leaf(easel, radius, palette, present=easel.uniform(0, 1) < density)
    return np.clip(np.rint(255 * _exposed(easel.canvas)), 0, 255).astype(np.uint8)


def _exposed(canvas: Stack) -> Stack:
    """Give every image the same mean brightness and a contrast near its own."""
    mean = canvas.mean(axis=(1, 2), keepdims=True)
    spread = np.sqrt(((canvas - mean) ** 2).mean(axis=(1, 2), keepdims=True))
    gain = 0.2 / np.maximum(spread, 0.05)
    exposed: Stack = 0.48 + (canvas - mean) * np.sqrt(gain)
    return exposed


def _textures(n_images: int, draws: np.random.RandomState) -> Stack:
    """Return noise of unit variance: two 1/f kinds, oriented stripes, and blotches."""
    white = np.fft.rfft2(draws.standard_normal((n_images, N_TEXTURES, SIZE_PX, SIZE_PX)))
    ky = np.fft.fftfreq(SIZE_PX, 1 / SIZE_PX)[:, None]
    kx = np.fft.rfftfreq(SIZE_PX, 1 / SIZE_PX)[None, :]
    frequency = np.maximum(np.sqrt(kx**2 + ky**2), 1)
    angle = math.pi * draws.random_sample((n_images, 1, 1))
    cycles = 4 + 8 * draws.random_sample((n_images, 1, 1))
    along = np.abs(np.cos(angle) * kx + np.sin(angle) * ky)
    across = np.sin(angle) * kx - np.cos(angle) * ky
    white[:, 0] *= frequency**-1.5
    white[:, 1] *= frequency**-1.0
    white[:, 2] *= np.exp(-((along - cycles) ** 2 + across**2) / 8)
    white[:, 3] *= np.exp(-((frequency - cycles) ** 2) / 8)
    noise = np.fft.irfft2(white, s=(SIZE_PX, SIZE_PX))
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    textures: Stack = noise / np.sqrt((noise**2).mean(axis=(2, 3), keepdims=True))
    return textures


def _paint_ridge(easel: _Easel, height_px: Stack, light: Stack) -> None:
    """Cover everything below an uneven line, darker than the sky on average."""
    x = np.arange(SIZE_PX, dtype=np.float64)[None, :]
    line = height_px + easel.normal(0.25) * (x - SIZE_PX / 2)
    for waves in (1, 2, 3, 5, 8):
        phase = easel.uniform(0, 2 * math.pi)
        line = line + easel.normal(5.0) / waves * np.sin(2 * math.pi * waves * x / SIZE_PX + phase)
    y = np.arange(SIZE_PX, dtype=np.float64)[:, None]
    brightness = light - 0.2 + easel.normal(0.15) + easel.normal(0.15) * (y / SIZE_PX - 0.5)
    easel.paint(np.clip(y - line + 0.5, 0, 1), brightness)


def _paint_trunk(easel: _Easel, light: Stack, *, present: NDArray[np.bool_]) -> None:
    """Cover a long bar, mostly upright, rounded by its shading."""
    angle, x, y = easel.normal(0.35), easel.uniform(0, SIZE_PX), easel.uniform(0, SIZE_PX)
    half_width, length = np.exp(easel.uniform(0, 2.1)), easel.uniform(-10, 50)
    base, shading = light - 0.3 + easel.normal(0.2), easel.normal(0.15)
    across, along = _turned(x, y, angle)
    cover = np.clip(half_width - np.abs(across) + 0.5, 0, 1) * np.clip(along + length + 0.5, 0, 1)
    easel.paint(cover * present, base + shading * across / half_width)


def _paint_leaf(easel: _Easel, radius_px: float, palette: Stack, *, present: NDArray[np.bool_]) -> None:
    """Cover an ellipse, half the time cut by a straight edge."""
    margin = radius_px / 2
    x, y = (easel.uniform(-margin, SIZE_PX + margin) for _ in range(2))
    angle, narrowness = easel.uniform(0, 2 * math.pi), easel.uniform(1.0, 3.0)
    edge = np.abs(easel.uniform(-2 * radius_px, 2 * radius_px))
    base, shading = palette + easel.normal(0.16), easel.normal(0.1) / radius_px
    chosen = np.flatnonzero(present)
    p, q = _turned(x[chosen], y[chosen], angle[chosen])
    depth = (radius_px**2 - p**2 - (q * narrowness[chosen]) ** 2) / (2 * radius_px)
    cover = np.clip(depth + 0.5, 0, 1) * np.clip(edge[chosen] - p + 0.5, 0, 1)
    easel.paint(cover, base[chosen] + shading[chosen] * p, chosen)


def _turned(x_px: Stack, y_px: Stack, angle: Stack) -> tuple[Stack, Stack]:
    """Return pixel coordinates around a centre, turned by an angle."""
    dx = np.arange(SIZE_PX, dtype=np.float64)[None, :] - x_px
    dy = np.arange(SIZE_PX, dtype=np.float64)[:, None] - y_px
    return np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
