"""Label of the nearest neighbour in the memory bank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mvkit.distributed import all_gather, all_reduce
from mvkit.errors import DataError
from mvkit.images.batch import Batch
from mvkit.objectives.memory_bank import MemoryBank
from mvkit.training.evaluation.base import EvaluationContext, Evaluator
from mvkit.training.recipe import BankNeighbours

_UNSEEN = -1


class BankNeighboursEvaluator(Evaluator):
    """Validation images take the label of the training image whose bank entry is nearest.

    The labels of training images are noted as training meets them; a neighbour
    that no batch has held yet counts as wrong.

    References
    ----------
    Wu, Xiong, Yu & Lin (2018), CVPR, section 3.4, with k = 1; ``goldens/losses``,
    ``instance_discrimination`` (``knn:``).
    """

    headline = "top1"

    def __init__(self, settings: BankNeighbours, *, name: str, n_train: int) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._labels = torch.full((n_train,), _UNSEEN, dtype=torch.int64)

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Note the labels of the batch, those of all processes: any one's state is everyone's."""
        del encoder, step
        if batch.label is not None:
            index_and_label = all_gather(torch.stack([batch.index, batch.label], dim=1)).cpu()
            self._labels[index_and_label[:, 0]] = index_and_label[:, 1]

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1``: the fraction of validation images with the label of their neighbour."""
        images, bank = context.images, _bank(context.objective)
        known = self._labels.to(context.device)
        right_and_asked = torch.zeros(2, dtype=torch.float64, device=context.device)
        with images.batches("val", np.arange(images.n_images("val"), dtype=np.int64)) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels to compare with")
                embedded = context.objective.embed(context.encoder, batch)[0]
                labels = known[bank.nearest(embedded)[1][:, 0]]
                right_and_asked[0] += (labels == batch.label).sum()
                right_and_asked[1] += len(labels)
        right, asked = all_reduce(right_and_asked).tolist()
        return {"top1": right / asked if asked else math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Return the labels noted so far."""
        return {"labels": self._labels.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the labels."""
        self._labels.copy_(state["labels"])


def _bank(objective: nn.Module) -> MemoryBank:
    bank = getattr(objective, "bank", None)
    if not isinstance(bank, MemoryBank):
        raise DataError(f"{type(objective).__name__} keeps no memory bank to look up neighbours in")
    return bank
