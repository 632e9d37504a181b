"""SimSiam: predict one view's projection from the other's, without gradient (Chen & He 2021)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, features
from mvkit.objectives.heads import simsiam_prediction, simsiam_projection
from mvkit.objectives.registry import SimSiam


class SimSiamObjective(Objective):
    """Symmetrised negative cosine similarity (Chen & He 2021, equations 1 and 2)."""

    n_inputs: ClassVar[int] = 2

    def __init__(self, settings: SimSiam, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.projection = simsiam_projection(context.width, settings.hidden, settings.width)
        self.prediction = simsiam_prediction(settings.width, settings.prediction_hidden)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return predictions of views 1 and 2, then their (detached) projections.

        The views pass the batch norms one after the other, view 1 first.
        """
        projected = [self.projection(features(encoder, view)) for view in self.inputs(batch)]
        predicted = [self.prediction(rows) for rows in projected]
        return (*predicted, *(rows.detach() for rows in projected))

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Compare each prediction with the other view's projection."""
        del batch
        predicted_1, predicted_2, projected_1, projected_2 = embedded
        cosines = functional.cosine_similarity(predicted_1, projected_2.detach(), dim=1)
        cosines = cosines + functional.cosine_similarity(predicted_2, projected_1.detach(), dim=1)
        return Loss(batch_mean(-0.5 * cosines))
