"""Opening the images of a split, however they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.images.prefetch import BatchStream
from mvkit.images.settings import Crop

Split = Literal["train", "val"]


class ImageSource(Protocol):
    """Numbered images that can be had as batches of crops.

    Attributes
    ----------
    n_images
        Images are numbered from 0.
    classes
        Names of the classes; None where images have no labels.
    has_depth
        Whether each image has a depth.
    kind
        "beton" or "folder".
    digest
        Changes with the images.
    description
        One line for people.
    """

    @property
    def kind(self) -> str: ...

    n_images: int
    classes: tuple[str, ...] | None
    has_depth: bool
    digest: str
    description: str

    def batches(
        self,
        plan: Sequence[NDArray[np.int64]],
        crops: Sequence[tuple[Crop, int]],
        *,
        seed: int,
        epoch: int,
        workers: int,
    ) -> BatchStream:
        """Return an iterator (and context manager) of exactly the batches of ``plan``, in its order.

        Parameters
        ----------
        plan
            For every batch the images in it, int64 (n,). An unfinished epoch is resumed with the rest of its
            plan.
        crops
            (crop, side in px) for every view. Crop v of image i is the box ``crop_boxes(crop, seed, epoch,
            i, v, height, width)`` of the stored image, resized to uint8 (side, side, 3). Each image is read
            once, whatever the number of crops.
        seed, epoch
            Keys of the draws.
        workers
            Threads that read ahead, at most one per core; 0: none. Batches do not depend on it.

        Returns
        -------
        BatchStream
            Yields :class:`mvkit.images.batch.RawBatch`, which belong to the caller. ``seconds_waited``
            tells how long the caller has waited. Leave it by ``with`` or ``close()``: its threads end then.

        Raises
        ------
        UsageError
            If the plan names an image that is not there, or no crop is asked for.
        DataError
            From the iterator: an image that cannot be read or is too small, or no batch in ten minutes.
        """
        ...
