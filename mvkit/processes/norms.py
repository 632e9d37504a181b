"""Batch norms whose statistics are those of the global batch.

torch's ``SyncBatchNorm`` runs on CUDA only; this one runs wherever the
processes can talk, so that training on CPUs, and the tests, do what GPUs do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mvkit.errors import UsageError
from mvkit.processes.gathering import collected, summed_over_processes
from mvkit.processes.world import size


def synchronise_norms(module: nn.Module) -> nn.Module:
    """Make every batch norm of a network see the rows of all processes.

    Parameters, buffers, hooks and the modules themselves stay the same objects
    (an optimiser made before stays valid), and so do the keys of the state dict.

    Parameters
    ----------
    module
        Network with ``BatchNorm1d`` and ``BatchNorm2d``; converted in place.

    Returns
    -------
    nn.Module
        The same module.

    Raises
    ------
    UsageError
        If it holds a batch norm of another kind.
    """
    converted = {nn.BatchNorm1d: GlobalBatchNorm1d, nn.BatchNorm2d: GlobalBatchNorm2d}
    for path, part in module.named_modules():
        if isinstance(part, GlobalNorm):
            continue
        if type(part) in converted:
            # Changing the class, not replacing the object: objectives and
            # optimisers may hold references to it, and it may carry hooks.
            part.__class__ = converted[type(part)]
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise UsageError(
                f"{path or 'module'}: a {type(part).__name__} cannot see the global batch; "
                "use BatchNorm1d or BatchNorm2d, or set train.sync_norm=false"
            )
    return module


class GlobalNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the rows of all processes: exactly torch's where there is only one.

    With several processes the mean and variance are those of all rows together
    (also when processes have different numbers of rows), computed in float32
    or better from each process's own mean and squared deviations (Chan, Golub
    & LeVeque 1983, eq. 2.1), and backward takes every row's part in them into
    account. Running statistics are equal on all processes; the variance among
    them is the unbiased one of the global batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n_images, n_channels, ...)."""
        if size() == 1 or not self._sees_the_batch():
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        if not len(input):
            raise UsageError("batch norm: this process has no rows; give every process at least one image")
        return self._globally(input)

    def _sees_the_batch(self) -> bool:
        return self.training or (self.running_mean is None and self.running_var is None)

    def stay_uncompiled(self) -> None:
        """Have ``torch.compile`` leave the talk among processes alone, and compile what lies around it."""
        # Not a decorator of the method: that would load the compiler, seconds of work, on every import.
        self._globally = torch.compiler.disable(self._globally)  # type: ignore[method-assign,no-untyped-call]

    def _globally(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            mean, variance, count = _global_moments(rows)
            if self.training and self.track_running_stats:
                self._update(mean, variance, count)
        normalised: Tensor = _Normalise.apply(rows, self.weight, self.bias, (mean, variance, count), self.eps)
        return normalised

    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share: float | Tensor
        if self.momentum is None:
            share = 1 / self.num_batches_tracked.to(mean.dtype)
        else:
            share = self.momentum
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(new.to(running.dtype) * share)


class GlobalBatchNorm1d(GlobalNorm, nn.BatchNorm1d):
    """``BatchNorm1d`` over the rows of all processes."""


class GlobalBatchNorm2d(GlobalNorm, nn.BatchNorm2d):
    """``BatchNorm2d`` over the rows of all processes."""


def _axes(rows: Tensor) -> list[int]:
    """Return all axes except the channels'."""
    return [axis for axis in range(rows.ndim) if axis != 1]


def _as_channels(values: Tensor, rows: Tensor) -> Tensor:
    """Give (n_channels,) the shape that broadcasts with ``rows``."""
    return values.view(1, -1, *[1] * (rows.ndim - 2))


def _wide(rows: Tensor) -> Tensor:
    """Return rows in the precision of statistics: float32, or float64 if they are."""
    return rows if rows.dtype == torch.float64 else rows.to(torch.float32)


def _global_moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance (n_channels,) and count (scalar) over all processes."""
    wide = _wide(rows.detach())
    n_own = wide.numel() // wide.shape[1]
    variance, mean = torch.var_mean(wide, _axes(wide), correction=0)
    own = torch.cat([mean, variance * n_own, wide.new_full((1,), n_own)])
    everyone = collected(own)
    means, deviations, counts = everyone[:, : len(mean)], everyone[:, len(mean) : -1], everyone[:, -1:]
    count = counts.sum()
    # The same arithmetic in the same order on every process: bit-equal statistics.
    global_mean = (means * counts).sum(0) / count
    squares = deviations.sum(0) + (counts * (means - global_mean).square()).sum(0)
    return global_mean, squares / count, count


class _Normalise(torch.autograd.Function):
    """Batch norm with given global moments; backward counts their dependence on every process's rows."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        moments: tuple[Tensor, Tensor, Tensor],
        eps: float,
    ) -> Tensor:
        mean, variance, count = moments
        ctx.save_for_backward(rows, weight, mean, torch.rsqrt(variance + eps), count)
        return functional.batch_norm(rows, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, inverse_sd, count = ctx.saved_tensors
        deviations = _wide(rows) - _as_channels(mean, rows)
        wide = _wide(gradient)
        axes = _axes(rows)
        own_sum = wide.sum(axes)
        own_product = (wide * deviations).sum(axes)
        sums, products = summed_over_processes(torch.stack([own_sum, own_product])) / count
        # Ioffe & Szegedy 2015, the six equations of section 3, collected per row.
        slope = _as_channels(products * inverse_sd.square(), rows)
        scale = inverse_sd if weight is None else inverse_sd * weight
        to_rows = (wide - _as_channels(sums, rows)).addcmul_(deviations, slope, value=-1)
        to_rows.mul_(_as_channels(scale, rows))
        to_weight = (own_product * inverse_sd).to(weight.dtype) if ctx.needs_input_grad[1] else None
        to_bias = own_sum.to(weight.dtype) if ctx.needs_input_grad[2] else None
        return to_rows.to(rows.dtype), to_weight, to_bias, None, None
