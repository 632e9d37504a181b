"""Barlow Twins: cross-correlation of two views' embeddings close to identity (Zbontar et al. 2021)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mvkit.distributed import all_reduce
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, ColumnNorm, Loss, Objective, features, share_of
from mvkit.objectives.heads import projector
from mvkit.objectives.registry import BarlowTwins


class BarlowTwinsObjective(Objective):
    """Sum of (c_ii - 1)^2 and weight * sum of c_ij^2 (Zbontar et al. 2021, equations 1 and 2).

    c is divided by the number of images in the global batch, unless ``divide_by`` is set.
    """

    couples_samples: ClassVar[bool] = True
    n_inputs: ClassVar[int] = 2

    def __init__(self, settings: BarlowTwins, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.settings = settings
        self.projector = projector(context.width, settings.widths, bias=False)
        self.norm = ColumnNorm(settings.widths[-1])

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return both views' projections, (n_images, width) each; view 1 passes the norms first."""
        return tuple(self.projector(features(encoder, view)) for view in self.inputs(batch))

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss of the correlation over all processes, the same on each."""
        del batch
        rows_1, rows_2 = (self.norm(rows) for rows in embedded)
        n_images = self.settings.divide_by or share_of(len(rows_1)).n_all
        squares_off, on_diagonal = _terms(all_reduce(rows_1.T @ (rows_2 / n_images)))
        off_diagonal = self.settings.off_diagonal_weight * squares_off
        return Loss(
            on_diagonal + off_diagonal,
            {"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()},
        )


def _terms(correlation: Tensor) -> tuple[Tensor, Tensor]:
    squares = correlation.square()
    off_diagonal = squares.sum() - squares.diagonal().sum()
    return off_diagonal, (correlation.diagonal() - 1).square().sum()
