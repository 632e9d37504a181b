"""What an objective is built from, besides its settings."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import nn

from mvkit.draws import hashed
from mvkit.errors import UsageError


@dataclass(frozen=True)
class Surroundings:
    """Network, images and seed of a training run.

    Attributes
    ----------
    encoder
        The network to train.
    shape
        Shape, for one image, of what is read from it; None if it decodes an image.
    path
        Path of the module that is read; "" for the network's output.
    n_images, n_classes
        Of the training set; no classes without labels.
    seed
        Of everything that is drawn during training.
    """

    encoder: nn.Module
    shape: torch.Size | None
    path: str = ""
    n_images: int = 0
    n_classes: int | None = None
    seed: int = 0

    @property
    def read_shape(self) -> torch.Size:
        """``shape``; UsageError if there is none."""
        if self.shape is None:
            raise UsageError(
                "this objective needs a network that returns features, and this one decodes an image\n"
                "use another architecture, or name a layer where the objective has that setting"
            )
        return self.shape

    @property
    def width(self) -> int:
        """Number of values that are read for one image."""
        return self.read_shape.numel()

    @property
    def known_classes(self) -> int:
        """``n_classes``; UsageError if there are none."""
        if self.n_classes is None:
            raise UsageError(
                "this objective needs labels, and these images have none\nuse an image folder with classes"
            )
        return self.n_classes

    def generator(self, purpose: str) -> torch.Generator:
        """Return a generator of its own for a purpose (a bank's or a queue's start)."""
        return torch.Generator().manual_seed(int(hashed(self.seed, crc32(purpose.encode()))))
