"""The images of a run as evaluators see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mvkit.distributed import rank, world_size
from mvkit.errors import DataError
from mvkit.images.batch import Batch
from mvkit.images.crops import output_px
from mvkit.images.loading import ImageSource
from mvkit.images.settings import ViewsSettings
from mvkit.images.views import ViewMaker
from mvkit.training.evaluation.base import Split


@dataclass(frozen=True)
class RunImages:
    """Training and validation images in fixed views.

    Attributes
    ----------
    train, val
        Where the images are; ``val`` may be missing.
    validation_views
        How they are shown unless an evaluation says otherwise.
    batch_size
        Images of all processes together.
    seed
        Of the run.
    workers
        Loader threads; results do not depend on them.
    device
        Where batches go.
    """

    train: ImageSource
    val: ImageSource | None
    validation_views: ViewsSettings
    batch_size: int
    seed: int
    workers: int
    device: torch.device

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None where images have no labels."""
        return None if self.train.classes is None else len(self.train.classes)

    def n_images(self, split: Split) -> int:
        """Return the number of images; 0 where there is no such split."""
        if split == "train":
            return self.train.n_images
        return 0 if self.val is None else self.val.n_images

    @contextmanager
    def batches(
        self, split: Split, indices: NDArray[np.int64], *, views: ViewsSettings | None = None
    ) -> Iterator[Iterator[Batch]]:
        """Iterate over this process's share of these images, in batches on the device of the run."""
        settings = views or self.validation_views
        crops = [(view.crop, output_px(view.crop, settings)) for view in settings.each()]
        maker = ViewMaker(settings, seed=self.seed, device=self.device)
        plan = shared_plan(indices, self.batch_size, n_processes=world_size(), process=rank())
        source = self._source(split)
        with source.batches(plan, crops, seed=self.seed, epoch=0, workers=self.workers) as raw:
            yield (maker(batch, epoch=0) for batch in raw)

    def _source(self, split: Split) -> ImageSource:
        source = self.train if split == "train" else self.val
        if source is None:
            raise DataError(f"there are no {split} images")
        return source


def shared_plan(
    indices: NDArray[np.int64], batch_size: int, *, n_processes: int, process: int
) -> list[NDArray[np.int64]]:
    """Cut positions into global batches and return one process's contiguous part of each.

    Batches are as equal as possible (at most ``batch_size``), so that no process is left
    without a row of the last one; their borders do not depend on the number of processes.

    Raises
    ------
    DataError
        If there are fewer images in a batch than processes.
    """
    if not len(indices):
        return []
    batches = np.array_split(indices, -(-len(indices) // batch_size))
    if min(map(len, batches)) < n_processes:
        raise DataError(
            f"{len(indices)} images in batches of {batch_size} are too few for {n_processes} processes to "
            "evaluate on: use fewer processes or more images"
        )
    return [np.array_split(batch, n_processes)[process] for batch in batches]
