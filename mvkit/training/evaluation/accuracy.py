"""Counting correct answers over all processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvkit.processes.gathering import total

#: With fewer classes than this, "among the best five" says nothing.
_CLASSES_FOR_TOP5 = 6


class AccuracyCount:
    """How often the right class was first, or among the first five; fractions over all processes.

    Parameters
    ----------
    n_classes
        Number of classes.
    device
        Where the counts are kept.
    """

    def __init__(self, n_classes: int, device: torch.device) -> None:
        self._ranks = (1, 5) if n_classes >= _CLASSES_FOR_TOP5 else (1,)
        # First the number of answers, then how many were right at each rank.
        self.counts = torch.zeros(1 + len(self._ranks), dtype=torch.float64, device=device)

    def add(self, class_scores: Tensor, labels: Tensor) -> None:
        """Count this process's answers: scores (n_images, n_classes), the higher the likelier."""
        if not len(labels):
            return
        best = class_scores.topk(self._ranks[-1], dim=1).indices == labels[:, None]
        self.counts[0] += len(labels)
        self.counts[1:] += torch.stack([best[:, :rank].any(dim=1).sum() for rank in self._ranks])

    def fractions(self) -> dict[str, float]:
        """Return ``top1`` and, with at least six classes, ``top5`` of all processes; NaN without answers."""
        # Not every device sums float64 over processes; float32 counts exactly up to 16 million.
        answered, *right = total(self.counts.to(torch.float32)).tolist()
        return {
            f"top{rank}": count / answered if answered else math.nan
            for rank, count in zip(self._ranks, right, strict=True)
        }

    def clear(self) -> None:
        """Start again from zero."""
        self.counts.zero_()
