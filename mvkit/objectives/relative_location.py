"""Relative location: which of eight neighbours of the centre a patch is (Doersch et al. 2015)."""

from __future__ import annotations

from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, accuracies, features, mean_cross_entropy
from mvkit.objectives.registry import RelativeLocation
from mvkit.rng import uniforms

N_NEIGHBOURS = 8
_DROPOUT = crc32(b"relative location: dropout")


class RelativeLocationObjective(Objective):
    """Cross entropy over the eight positions, from the features of a neighbour and of the centre.

    Head: linear, batch norm, ReLU, dropout, linear; first weights N(0, 0.005^2), biases 0.1, then 0.
    """

    n_inputs: ClassVar[int] = 1 + N_NEIGHBOURS

    def __init__(self, settings: RelativeLocation, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.dropout = settings.dropout
        self.fc0 = nn.Linear(2 * context.width, settings.hidden)
        self.bn0 = nn.BatchNorm1d(settings.hidden, momentum=settings.norm_momentum)
        self.fc1 = nn.Linear(settings.hidden, N_NEIGHBOURS)
        for linear, bias in ((self.fc0, 0.1), (self.fc1, 0.0)):
            nn.init.normal_(linear.weight, std=0.005)
            nn.init.constant_(linear.bias, bias)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return logits (n_images, 8 neighbours shown, 8 classes).

        Two passes, neighbours first, as in the published training: its second
        pass saw the centre eight times, which gives the same normalised
        features as seeing it once (only the running variance of the
        encoder's norms differs, by the factor between n - 1 and 8n - 1).
        """
        centre, *neighbours = self.inputs(batch)
        shown = features(encoder, torch.stack(neighbours, dim=1).flatten(0, 1))
        centres = features(encoder, centre).repeat_interleave(N_NEIGHBOURS, dim=0)
        keep = self.draw_dropout(batch.index).flatten(0, 1) if self.training else None
        return (self.logits(shown, centres, keep=keep).view(len(centre), N_NEIGHBOURS, N_NEIGHBOURS),)

    def draw_dropout(self, index: Tensor) -> Tensor:
        """Return the mask of hidden units that pass dropout in this step: bool (n_images, 8, hidden)."""
        patch = torch.arange(N_NEIGHBOURS, device=index.device)[:, None]
        unit = torch.arange(self.fc0.out_features, device=index.device)
        drawn: Tensor = uniforms(self.seed, _DROPOUT, self.step, index[:, None, None], patch, unit)
        return drawn >= self.dropout

    def logits(self, neighbours: Tensor, centres: Tensor, *, keep: Tensor | None) -> Tensor:
        """Return the head's output for pairs of patches.

        Parameters
        ----------
        neighbours, centres
            Features of the neighbours and of their centres, (n_pairs, width).
        keep
            Mask of hidden units, (n_pairs, hidden), which are scaled up for the others; None: all.
        """
        hidden = functional.relu(self.bn0(self.fc0(torch.cat([neighbours, centres], dim=1))))
        if keep is not None and self.dropout > 0:
            # At a rate of 1 no unit passes, and nothing must be divided by zero.
            hidden = hidden * keep.to(hidden.dtype) * (1 / (1 - self.dropout) if self.dropout < 1 else 0.0)
        logits: Tensor = self.fc1(hidden)
        return logits

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the mean over images and neighbours."""
        del batch
        (logits,) = embedded
        classes = torch.arange(N_NEIGHBOURS, device=logits.device).expand(len(logits), -1)
        return Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))
