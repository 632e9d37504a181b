"""The operations on any torch device: the same program, batched.

In a column most images have different operations, so what they share is computed for all of them at once:
brightness, contrast and saturation are one blend of each image with its own partner (black, its mean luma,
its grey version). Hue and blur are applied to the rows that have them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvkit.images.augment.program import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    FLIP,
    HUE,
    SATURATION,
    SOLARISE,
    Program,
)

#: Weights of red, green and blue in the luma (ITU-R 601, as rounded by torchvision).
LUMA = (0.2989, 0.587, 0.114)


def augment_batch(crops: Tensor, program: Program, mean: Tensor, std: Tensor) -> Tensor:
    """Carry out the program of every image and normalise.

    Parameters
    ----------
    crops
        uint8 (n_images, height, width, 3), RGB, on the device to work on.
    program
        Drawn for these images.
    mean, std
        float32 (3,), on the device, of values in [0, 1].

    Returns
    -------
    Tensor
        float32 (n_images, 3, height, width), contiguous.
    """
    images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
    for column in range(program.operations.shape[1]):
        operations = program.operations[:, column]
        amounts = program.amounts[:, column]
        images = _blended(images, operations, amounts)
        for operation in (FLIP, HUE, BLUR, SOLARISE):
            chosen = np.flatnonzero(operations == operation)
            if not chosen.size:
                continue
            rows = _moved(chosen, images)
            part = images.index_select(0, rows)
            if operation == FLIP:
                part = part.flip(-1)
            elif operation == HUE:
                part = turn_hue(part, _per_image(amounts[chosen], part))
            elif operation == BLUR:
                part = blur(part, _moved(program.taps[chosen, column], part))
            else:
                part = torch.where(part >= _per_image(amounts[chosen], part), 1 - part, part)
            images.index_copy_(0, rows, part)
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def _moved(array: NDArray[np.int64] | NDArray[np.float32], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


def _per_image(amounts: NDArray[np.float32], like: Tensor) -> Tensor:
    """float32 (n_images, 1, 1, 1)."""
    return _moved(amounts, like).view(-1, 1, 1, 1)


def luma(images: Tensor) -> Tensor:
    """Return the luma of float images (n, 3, height, width) as (n, 1, height, width)."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _blended(images: Tensor, operations: NDArray[np.int64], amounts: NDArray[np.float32]) -> Tensor:
    """Apply brightness, contrast and saturation where a column has them; other images stay as they are."""
    contrasted, saturated = operations == CONTRAST, operations == SATURATION
    blended = contrasted | saturated | (operations == BRIGHTNESS)
    if not blended.any():
        return images
    factors = np.where(blended, amounts, np.float32(1))
    rests = (1.0 - factors.astype(np.float64)).astype(np.float32)
    partner = torch.zeros((), device=images.device)
    if contrasted.any() or saturated.any():
        grey = luma(images)
        if saturated.any():
            partner = grey * _per_image(np.where(saturated, rests, np.float32(0)), images)
        if contrasted.any():
            weight = _per_image(np.where(contrasted, rests, np.float32(0)), images)
            partner = partner + grey.mean(dim=(2, 3), keepdim=True) * weight
    return (images * _per_image(factors, images) + partner).clamp_(0, 1)


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of float images in [0, 1].

    See ``mvkit.images.augment.kernels`` for the formula.

    Parameters
    ----------
    images
        float32 (n, 3, height, width).
    shift
        float32 (n, 1, 1, 1): turns.
    """
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # n of red, green and blue; see the kernel.
    offsets = torch.tensor((5.0, 3.0, 1.0), device=images.device).view(1, 3, 1, 1)
    wrapped = torch.remainder(sixths.unsqueeze(1) + 6 * shift + offsets, 6)
    share = torch.minimum(wrapped, 4 - wrapped).clamp_(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * share


def blur(images: Tensor, taps: Tensor) -> Tensor:
    """Blur every image with its own weights, rows first; borders are mirrored.

    A sum of shifted images: convolutions of CUDA devices may round their factors to ten bits (TF32).

    Parameters
    ----------
    images
        float32 (n, 3, height, width).
    taps
        float32 (n, n_taps).
    """
    radius = taps.shape[1] // 2
    for axis in (3, 2):
        sides = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
        padded = torch.nn.functional.pad(images, sides, mode="reflect")
        length = images.shape[axis]
        done = torch.zeros_like(images)
        for tap in range(taps.shape[1]):
            done = done + taps[:, tap].view(-1, 1, 1, 1) * padded.narrow(axis, tap, length)
        images = done
    return images
