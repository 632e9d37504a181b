"""The objective's own loss on images it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mvkit.processes.gathering import total
from mvkit.training.evaluation.base import EvaluationContext, Evaluator, Views
from mvkit.training.recipe import ValidationLoss


class ValidationLossEvaluator(Evaluator):
    """Mean loss, and means of its parts, over the validation images, network and heads in eval mode.

    Banks, queues and momentum copies stay as they are. Where images of a batch are compared with each
    other, the loss depends on the batch size, as in training.

    Parameters
    ----------
    settings
        How often.
    name
        Name in the log.
    views
        "validation", or "training" for objectives that compare several augmented views.
    """

    headline = "loss"
    higher_is_better = False

    def __init__(self, settings: ValidationLoss, *, name: str, views: Views) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._views = views

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``loss`` and the parts of the loss under their names."""
        images = context.images
        sums: dict[str, torch.Tensor] = {}
        n_own = 0
        everything = np.arange(images.n_images("val"), dtype=np.int64)
        with images.batches("val", everything, views=self._views) as batches:
            for batch in batches:
                loss = context.objective.loss(context.encoder, batch)
                for key, value in {"loss": loss.total, **loss.parts}.items():
                    # A process speaks for its rows, be the loss of these or of the whole batch.
                    share = value.detach().to(torch.float32).mean() * len(batch.index)
                    sums[key] = sums[key] + share if key in sums else share
                n_own += len(batch.index)
        n_all = total(torch.tensor([float(n_own)], device=context.device))
        return {key: float(total(value.reshape(1)) / n_all) for key, value in sums.items()}
