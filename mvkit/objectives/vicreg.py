"""VICReg: invariance, variance and covariance of two views' embeddings (Bardes et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.distributed import all_reduce
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, features, share_of
from mvkit.objectives.heads import projector
from mvkit.objectives.registry import VicReg

_EPSILON = 1e-4


class VicRegObjective(Objective):
    """Weighted sum of three terms (Bardes et al. 2022, equations 1 to 6).

    Variance and covariance are those of the global batch (over N - 1 images,
    unless ``divide_by`` is set, which replaces N in the covariance).
    """

    couples_samples: ClassVar[bool] = True
    n_inputs: ClassVar[int] = 2

    def __init__(self, settings: VicReg, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.settings = settings
        self.projector = projector(context.width, settings.widths, bias=True)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return both views' projections, (n_images, width) each; view 1 passes the norms first."""
        return tuple(self.projector(features(encoder, view)) for view in self.inputs(batch))

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss over all processes."""
        del batch
        invariance = batch_mean((embedded[0] - embedded[1]).square())
        (hinge_1, covariance_1), (hinge_2, covariance_2) = (self._spread(rows) for rows in embedded)
        invariance = self.settings.invariance_weight * invariance
        variance = self.settings.variance_weight * (hinge_1 + hinge_2) / 2
        covariance = self.settings.covariance_weight * (covariance_1 + covariance_2)
        return Loss(
            invariance + variance + covariance,
            {
                "invariance": invariance.detach(),
                "variance": variance.detach(),
                "covariance": covariance.detach(),
            },
        )

    def _spread(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hinge on the columns' standard deviations, and the mean squared covariance."""
        n_all = share_of(len(rows)).n_all
        centred = rows - all_reduce(rows.sum(0)) / n_all
        products = all_reduce(centred.T @ centred)
        deviations = torch.sqrt(products.diagonal() / (n_all - 1) + _EPSILON)
        # Scaled after the sum: of a square of side 8192 every copy counts (256 MiB).
        squares = products.square()
        off_diagonal = squares.sum() - squares.diagonal().sum()
        n_counted = (self.settings.divide_by or n_all) - 1
        return functional.relu(1 - deviations).mean(), off_diagonal / (n_counted**2 * rows.shape[1])
