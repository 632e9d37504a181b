"""Standardisation of columns over the global batch, without scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvkit.distributed import all_reduce
from mvkit.objectives.global_batch import share_of


class ColumnNorm(nn.Module):
    """A batch norm (Ioffe & Szegedy 2015) without parameters, over the images of all processes.

    Whatever the recipe says of synchronised norms: a correlation over the
    global batch needs the global mean and variance. Buffers and arithmetic
    are those of ``nn.BatchNorm1d(affine=False)``.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, *, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, rows: Tensor) -> Tensor:
        """Standardise (n_images, width); in eval mode with the running statistics."""
        if not self.training:
            return (rows - self.running_mean) / torch.sqrt(self.running_var + self.epsilon)
        n_all = share_of(len(rows)).n_all
        mean = all_reduce(rows.sum(0)) / n_all
        centred = rows - mean
        variance = all_reduce(centred.square().sum(0)) / n_all
        self._track(mean, variance * (n_all / max(n_all - 1, 1)))
        return centred / torch.sqrt(variance + self.epsilon)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1
