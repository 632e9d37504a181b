"""Everything a run is made of, and the order in which it sees the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn, optim

from mvkit.errors import UsageError
from mvkit.images.loader import ImageSource
from mvkit.images.views import ViewMaker
from mvkit.models.base import VisionModel
from mvkit.objectives.base import Objective
from mvkit.rng import hashed
from mvkit.training.evaluation import EvaluationImages, EvaluatorSet
from mvkit.training.recipe import TrainRecipe
from mvkit.training.step import TrainStep

#: Key of the draws that belong to the order, so that they share nothing with those of the views.
_ORDER_KEY = 0x0D0E


@dataclass(frozen=True)
class Order:
    """The batches of a run.

    Attributes
    ----------
    n_images
        Images of the training set.
    batch_size
        Images of a global batch (all processes together).
    seed
        Of the permutations.
    drop_last
        Whether the images that fill no whole batch are left out of an epoch.
    rank, size
        This process and the number of processes; each has a contiguous part of every global batch, of equal
        size, or, of a last batch that fills no whole one, as equal as can be.
    """

    n_images: int
    batch_size: int
    seed: int
    drop_last: bool = True
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        """Refuse what leaves an epoch without batches or a process without images."""
        check_processes_divide(self.batch_size, self.size)
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"train.batch_size {self.batch_size} is more than the {self.n_images} images there are\n"
                f"choose a smaller one: --set train.batch_size={max(self.n_images, 1)}"
            )
        rest = 0 if self.drop_last else self.n_images % self.batch_size
        if 0 < rest < max(2, self.size):
            needs = f"{self.size} processes need one each" if self.size > 2 else "batch norms need two"
            raise UsageError(
                f"the last batch of an epoch has {rest} of the {self.n_images} images, and {needs}\n"
                "leave it out: --set data.drop_last=true"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        exact = self.n_images / self.batch_size
        return math.floor(exact) if self.drop_last else math.ceil(exact)

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """Return all image indices in the order of an epoch: int64 (n_images,)."""
        images = np.arange(self.n_images, dtype=np.int64)
        # 63 random bits each: ties, which the index would settle, are then as good as absent.
        high = hashed(self.seed, _ORDER_KEY, epoch, images, 0)
        low = hashed(self.seed, _ORDER_KEY, epoch, images, 1)
        return np.argsort((high << 31) | (low >> 1), kind="stable").astype(np.int64)

    def batches(self, epoch: int, *, first: int = 0, last: int | None = None) -> list[NDArray[np.int64]]:
        """Return this process's part of the global batches ``first`` to ``last`` (excluded) of an epoch.

        Global batch ``k`` is ``permutation[k * batch_size : (k + 1) * batch_size]``.
        """
        order = self.permutation(epoch)
        last = self.steps_per_epoch if last is None else min(last, self.steps_per_epoch)
        whole = (order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(first, last))
        return [self._part(batch) for batch in whole]

    def _part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        first, last = (len(batch) * rank // self.size for rank in (self.rank, self.rank + 1))
        return batch[first:last]


def check_processes_divide(batch_size: int, n_processes: int) -> None:
    """Refuse a number of processes that cannot share a global batch equally.

    Raises
    ------
    UsageError
        Names numbers of processes that can.
    """
    if batch_size % n_processes:
        possible = [n for n in range(1, n_processes + 1) if batch_size % n == 0]
        raise UsageError(
            f"a batch of {batch_size} images cannot be shared equally by {n_processes} processes\n"
            f"use {' or '.join(map(str, possible[-2:]))} processes, or set train.batch_size to a multiple of "
            f"{n_processes}"
        )


@dataclass(frozen=True)
class Learner:
    """What learns.

    Attributes
    ----------
    encoder, objective
        On the device, in the modes of training.
    optimiser
        Over their trainable parameters.
    step
        One optimisation step of these three.
    n_classes
        Width of the encoder's read-out where it was set; None where the architecture decides.
    """

    encoder: VisionModel
    objective: Objective
    optimiser: optim.Optimizer
    step: TrainStep
    n_classes: int | None = None

    def train_mode(self) -> None:
        """Put everything into the mode of training; a frozen encoder stays in eval mode."""
        self.encoder.train(self.objective.trains_encoder)
        self.objective.train()

    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Return encoder and objective."""
        return self.encoder, self.objective


@dataclass(frozen=True)
class RunPlace:
    """Where and on what a run happens; none of it is science.

    Attributes
    ----------
    folder
        Of log and checkpoints.
    device
        Where it computes.
    workers
        Loader threads.
    tensorboard
        Whether TensorBoard's files are written too.
    machine
        Device, precision, processes ... recorded in log and checkpoints.
    versions
        Of the software, recorded likewise.
    """

    folder: Path
    device: torch.device
    workers: int = 0
    tensorboard: bool = False
    machine: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSetup:
    """A run.

    Attributes
    ----------
    recipe
        What is computed.
    learner
        What learns.
    train
        Training images.
    views
        How they are looked at.
    order
        In which order.
    evaluators, images
        What is measured at the end of epochs, and the images for it.
    place
        Where it happens.
    """

    recipe: TrainRecipe
    learner: Learner
    train: ImageSource
    views: ViewMaker
    order: Order
    evaluators: EvaluatorSet
    images: EvaluationImages
    place: RunPlace

    @property
    def n_steps(self) -> int:
        """Optimisation steps of the whole run."""
        whole = self.recipe.train.epochs * self.order.steps_per_epoch
        return min(whole, self.recipe.train.max_steps or whole)

    @property
    def n_epochs(self) -> int:
        """Epochs of the whole run, a last one that ``max_steps`` cuts short included."""
        return -(-self.n_steps // self.order.steps_per_epoch)
