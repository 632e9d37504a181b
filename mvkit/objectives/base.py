"""What every objective offers to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

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
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of all objectives: heads are its parameters, banks and queues its buffers.

    A step of the loop is ``before_step``, ``embed`` (once, or once for every
    micro-batch), ``criterion``, backward and optimiser, ``after_step``. Every
    random draw is keyed by (seed, step, image index), see ``mvkit.draws``.

    The loss is that of the global batch: with several processes, each embeds
    its rows and ``criterion`` gathers what it needs (``mvkit.processes``), so
    that the *mean over processes* of the gradients is the global gradient.

    Attributes
    ----------
    couples_samples
        Whether the loss of an image depends on the other images of its batch
        (then gradients of micro-batches cannot simply be added).
    """

    couples_samples: ClassVar[bool] = False

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.step = 0

    def before_step(self, encoder: nn.Module, *, step: int) -> None:
        """Prepare a step (training only): momentum copies move here."""
        del encoder
        self.step = step

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Run encoder and heads on these rows; every tensor has the images along its first axis."""
        raise NotImplementedError

    def criterion(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss of what ``embed`` returned for this process's whole share of the batch."""
        raise NotImplementedError

    def after_step(self, embedded: tuple[Tensor, ...], batch: Batch) -> None:
        """Update banks and queues with this step's (detached) embeddings, on all processes alike."""
        del embedded, batch

    def loss(self, encoder: nn.Module, batch: Batch) -> Loss:
        """Return the loss of a batch: ``criterion(embed(...))``."""
        return self.criterion(self.embed(encoder, batch), batch)
