"""RotNet: which of four rotations an image was turned by (Gidaris et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, accuracies, features, mean_cross_entropy
from mvkit.objectives.registry import RotNet

N_ROTATIONS = 4


class RotNetObjective(Objective):
    """Cross entropy over the rotations; all of an image's rotations are in the batch."""

    n_inputs: ClassVar[int] = N_ROTATIONS

    def __init__(self, settings: RotNet, context: BuildContext) -> None:
        del settings
        super().__init__(seed=context.seed)
        self.fc = nn.Linear(context.width, N_ROTATIONS)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits (n_images, 4 rotations shown, 4 classes); one pass for all rotations."""
        views = torch.stack(self.inputs(batch), dim=1)
        logits: Tensor = self.fc(features(encoder, views.flatten(0, 1)))
        return (logits.view(*views.shape[:2], N_ROTATIONS),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the mean over images and rotations."""
        del batch
        (logits,) = embedded
        classes = torch.arange(N_ROTATIONS, device=logits.device).expand(len(logits), -1)
        return Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))
