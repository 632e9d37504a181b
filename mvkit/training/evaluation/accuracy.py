"""Counting correct answers over all processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvkit.distributed import all_reduce

#: With fewer classes than this, "among the best five" says nothing.
CLASSES_FOR_TOP5 = 6


class AccuracyCount:
    """How often the right class was first, or among the first five.

    Parameters
    ----------
    n_classes
        Number of classes.
    device
        Where the counts are kept.
    shared
        Whether every ``add`` counts the answers of all processes, so that each of them holds all
        counts (for checkpoints); else only ``fractions`` sums over processes.
    """

    def __init__(self, n_classes: int, device: torch.device, *, shared: bool = False) -> None:
        self._ranks = (1, 5) if n_classes >= CLASSES_FOR_TOP5 else (1,)
        self._shared = shared
        # First the number of answers, then how many were right at each rank.
        self.counts = torch.zeros(1 + len(self._ranks), dtype=torch.float64, device=device)

    def add(self, class_scores: Tensor, labels: Tensor) -> None:
        """Count answers: scores (n_images, n_classes), the higher the likelier; labels int64 (n_images,)."""
        best = class_scores.topk(self._ranks[-1], dim=1).indices == labels[:, None]
        right = [best[:, :rank].any(dim=1).sum() for rank in self._ranks]
        new = torch.stack([best.new_tensor(len(labels), dtype=torch.int64), *right]).to(self.counts)
        self.counts += all_reduce(new) if self._shared else new

    def fractions(self) -> dict[str, float]:
        """Return ``top1`` and, with at least six classes, ``top5`` of all processes; NaN without answers."""
        counts = self.counts if self._shared else all_reduce(self.counts)
        answered, *right = counts.tolist()
        return {
            f"top{rank}": count / answered if answered else math.nan
            for rank, count in zip(self._ranks, right, strict=True)
        }

    def clear(self) -> None:
        """Start again from zero."""
        self.counts.zero_()
