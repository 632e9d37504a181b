"""Averages over the global batch, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mvkit.distributed import rank, row_counts, world_size


class Share(NamedTuple):
    """This process's rows among those of all: ``first`` to ``first + n_own`` of ``n_all``."""

    first: int
    n_own: int
    n_all: int


def share_of(n_own: int) -> Share:
    """Return where ``n_own`` rows of this process lie in the global batch."""
    counts = row_counts(n_own)
    return Share(first=sum(counts[: rank()]), n_own=n_own, n_all=sum(counts))


def batch_mean(values: Tensor) -> Tensor:
    """Return this process's contribution to the mean over the images of the global batch.

    The mean over processes of what is returned is the mean over all images,
    also where processes have different numbers of images.

    Parameters
    ----------
    values
        (n_images, ...): all entries are averaged.
    """
    if world_size() == 1:
        return values.mean()
    share = share_of(len(values))
    return values.sum() * (world_size() * share.n_own / (share.n_all * max(values.numel(), 1)))


def mean_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return :func:`batch_mean` of the cross entropy.

    Parameters
    ----------
    logits
        (n_images, n_classes), or (n_images, n_views, n_classes).
    classes
        int64 (n_images,), or (n_images, n_views).
    """
    each = functional.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return batch_mean(each.view(classes.shape))


@torch.no_grad()
def accuracies(logits: Tensor, classes: Tensor) -> Mapping[str, Tensor]:
    """Return the fractions (means over the global batch) whose class is the first, or one of the first five.

    Shapes as for :func:`mean_cross_entropy`. "top5" only where there are more than five classes.
    """
    chosen = logits.gather(-1, classes.unsqueeze(-1))
    better = (logits > chosen).sum(-1)
    ranks = {"top1": 1, "top5": 5} if logits.shape[-1] > 5 else {"top1": 1}
    return {name: batch_mean((better < k).float()) for name, k in ranks.items()}
