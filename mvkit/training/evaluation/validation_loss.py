"""The objective's own loss on images it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mvkit.distributed import all_reduce, world_size
from mvkit.images.settings import ViewsSettings
from mvkit.training.evaluation.base import EvaluationContext, Evaluator
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
        How the images are shown.
    """

    headline = "loss"
    higher_is_better = False

    def __init__(self, settings: ValidationLoss, *, name: str, views: ViewsSettings) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._views = views

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``loss`` and the parts of the loss under their names."""
        images = context.images
        sums: dict[str, torch.Tensor] = {}
        n_all = torch.zeros(1, device=context.device)
        everything = np.arange(images.n_images("val"), dtype=np.int64)
        with images.batches("val", everything, views=self._views) as batches:
            for batch in batches:
                loss = context.objective.loss(context.encoder, batch)
                n_rows = all_reduce(torch.tensor([float(len(batch.index))], device=context.device))
                n_all += n_rows
                for key, value in {"loss": loss.total, **loss.parts}.items():
                    # The mean over processes is the value of the global batch.
                    share = value.detach().to(torch.float32).reshape(1) * n_rows / world_size()
                    sums[key] = sums[key] + share if key in sums else share
        return {key: float(all_reduce(value) / n_all) for key, value in sums.items()}
