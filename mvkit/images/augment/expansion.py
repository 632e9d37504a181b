"""How one view becomes several: rotations, and the patches of a puzzle."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvkit import draws
from mvkit.images.augment.program import ViewKey
from mvkit.images.settings import Patches

#: Cells of the 3 x 3 grid as (row, column): the centre, then its neighbours in reading order.
CELLS = ((1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))


def rotations(view: Tensor) -> tuple[Tensor, ...]:
    """Return the view (n, 3, side, side) turned by 0, 90, 180 and 270 degrees, counter-clockwise."""
    return tuple(torch.rot90(view, quarter, (2, 3)).contiguous() for quarter in range(4))


def patch_offsets(settings: Patches, index: NDArray[np.int64], key: ViewKey) -> NDArray[np.int64]:
    """Draw where patches begin in their cells, uniformly.

    Returns
    -------
    ndarray
        int64 (n_images, 9, 2): rows and columns below the cell's first, 0 to ``cell_px - patch_px``.
    """
    numbers = np.arange(2 * len(CELLS), dtype=np.int64)
    drawn = draws.uniforms(key.seed, draws.PATCH, key.epoch, index[:, None], key.view, numbers[None, :])
    room = settings.cell_px - settings.patch_px + 1
    offsets: NDArray[np.int64] = (drawn * room).astype(np.int64).reshape(-1, len(CELLS), 2)
    return offsets


def patches(view: Tensor, settings: Patches, offsets: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Cut nine patches out of every image.

    Parameters
    ----------
    view
        float32 (n, 3, 3 cell_px, 3 cell_px).
    settings
        Sides of cells and patches.
    offsets
        From :func:`patch_offsets`.

    Returns
    -------
    tuple of Tensor
        Nine of float32 (n, 3, patch_px, patch_px): the centre first, then its neighbours in reading order.
    """
    starts = np.asarray(CELLS, np.int64) * settings.cell_px + offsets
    inside = torch.arange(settings.patch_px, device=view.device)
    image = torch.arange(view.shape[0], device=view.device).view(-1, 1, 1, 1)
    channel = torch.arange(view.shape[1], device=view.device).view(1, -1, 1, 1)
    found = []
    for cell in range(len(CELLS)):
        start = torch.from_numpy(np.ascontiguousarray(starts[:, cell])).to(view.device)
        rows = (start[:, :1] + inside).view(view.shape[0], 1, -1, 1)
        columns = (start[:, 1:] + inside).view(view.shape[0], 1, 1, -1)
        found.append(view[image, channel, rows, columns])
    return tuple(found)
