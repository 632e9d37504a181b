"""What every objective offers to the training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from mvkit.errors import DataError
from mvkit.images.batch import Batch


@dataclass(frozen=True)
class Loss:
    """A loss and what to log of it.

    Attributes
    ----------
    total
        Scalar, differentiable.
    parts
        Detached scalars by name: terms of the loss, accuracies (fractions).
        As for ``total``, the mean over processes is the value of the global batch.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of all objectives: heads are its parameters, banks and queues its buffers.

    A step of the loop is ``before_step``, ``embed`` (once, or once for every
    micro-batch), ``criterion``, backward and optimiser, ``after_step``. Every
    random draw is keyed by (seed, step, image index), see ``mvkit.draws``: so
    ``embed`` may run twice on the same rows and returns the same values (only
    the running statistics of batch norms move twice).

    The loss is that of the global batch: with several processes, each embeds
    its rows and ``criterion`` gathers what it needs (``mvkit.distributed``), so
    that the *mean over processes* of the gradients is the global gradient.
    All methods may communicate: every process must call them at the same point.

    Attributes
    ----------
    couples_samples
        Whether the loss of an image depends on the other images of its batch
        (then gradients of micro-batches cannot simply be added).
    n_inputs
        Number of views that a batch must hold, after rotations or patches.
    trains_encoder
        Whether the encoder's parameters are trained; False: it stays frozen, in eval mode.
    scores_new_images
        Whether the loss means something for images outside the training set;
        False: it looks images up by their index in it.
    """

    couples_samples: ClassVar[bool] = False
    n_inputs: ClassVar[int] = 1
    trains_encoder: ClassVar[bool] = True
    scores_new_images: ClassVar[bool] = True

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.step = 0

    def before_step(self, encoder: nn.Module, *, step: int) -> None:
        """Prepare a step (training only): momentum copies move here."""
        del encoder
        self.step = step

    @abstractmethod
    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Run encoder and heads on these rows; every tensor has the images along its first axis.

        Raises
        ------
        DataError
            If the batch lacks views.
        """
        raise NotImplementedError

    def criterion(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss of what ``embed`` returned for this process's whole share of the batch.

        Computed without autocast, in float32 (float64 stays float64).

        Raises
        ------
        DataError
            If the batch lacks labels or depth that the objective needs.
        """
        with torch.autocast(device_type=embedded[0].device.type, enabled=False):
            return self.compare(tuple(single_precision(values) for values in embedded), batch)

    @abstractmethod
    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss; each objective's own part of :meth:`criterion`."""
        raise NotImplementedError

    def after_step(self, embedded: tuple[Tensor, ...], batch: Batch) -> None:
        """Update banks and queues with this step's (detached) embeddings, on all processes alike."""
        del embedded, batch

    def loss(self, encoder: nn.Module, batch: Batch) -> Loss:
        """Return the loss of a batch: ``criterion(embed(...))``."""
        return self.criterion(self.embed(encoder, batch), batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the views of a batch.

        Raises
        ------
        DataError
            If their number is not ``n_inputs``.
        """
        if len(batch.views) != self.n_inputs:
            raise DataError(
                f"{type(self).__name__} needs {self.n_inputs} views of an image, the batch has"
                f" {len(batch.views)}\nset the recipe's 'views' accordingly"
            )
        return batch.views


def single_precision(values: Tensor) -> Tensor:
    """Return half-precision values as float32; everything else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the encoder's output as (n_images, width)."""
    output: Tensor = encoder(images)
    return output.flatten(1)


def labels_of(batch: Batch) -> Tensor:
    """Return the labels of a batch.

    Raises
    ------
    DataError
        If it has none.
    """
    if batch.label is None:
        raise DataError("this objective needs labels, and these images have none\nuse images with classes")
    return batch.label
