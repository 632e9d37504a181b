"""How many images go through a network at a time.

Convolutions and matrix products differ by float32 rounding with the number of images in a batch. The schedule
therefore depends on the size of the inputs and on nothing else: not on the layers asked for, not on the
machine's memory. So a layer's features have the same bits whatever else is recorded, and whether they are
written to a file, scored at once, or scored in shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mvkit.errors import UsageError

#: Pixels of a batch: 32 images of 64 x 64, 2 of 224 x 224. Memory holds all wanted layers of a batch, which
#: for the 38 layers of a VGG16 are 230 MB.
_BATCH_PIXELS = 2**17
_LARGEST = 64


def images_per_batch(batch_size: int | None, input_shape: Sequence[int]) -> int:
    """Return how many images go through together.

    Parameters
    ----------
    batch_size
        The size asked for, or None.
    input_shape
        Shape of one input, (channels, height, width) or any other.

    Raises
    ------
    UsageError
        If a size below 1 is asked for.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {batch_size}")
        return batch_size
    pixels = math.prod(input_shape[1:])
    return max(1, min(_LARGEST, _BATCH_PIXELS // max(1, pixels)))


def batches_from(start: int, n_images: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every batch from an image on."""
    for begin in range(start, n_images, size):
        yield begin, min(begin + size, n_images)
