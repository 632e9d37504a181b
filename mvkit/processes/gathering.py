"""Tensors of all processes as one, with gradients.

Convention of training: every process computes the loss of the *global* batch
(or the mean over its own rows where rows are independent), and the *mean over
processes* of the parameters' gradients is the gradient of the global loss.
Hence backward of :func:`gather` and :func:`total` sums what all processes
send: each of P equal losses contributes, and the mean divides by P.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from mvkit.errors import UsageError
from mvkit.processes.world import rank, size

#: Summed as float32: half precision would lose digits with every process.
_HALVES = (torch.float16, torch.bfloat16)


def gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes along the first axis, in rank order.

    Every process must call it at the same point. Processes may have different
    numbers of rows (a last, partial batch); all else must agree.

    Parameters
    ----------
    rows
        (n_own, ...), any dtype. In backward it receives the sum over processes
        of the gradients for its own rows.

    Returns
    -------
    Tensor
        (n_all, ...), the same on every process; ``rows`` itself for one process.

    Raises
    ------
    UsageError
        If ``rows`` is a scalar.
    """
    if rows.ndim == 0:
        raise UsageError("a scalar has no rows to gather over processes; use total() or give it an axis")
    if size() == 1:
        return rows
    if rows.requires_grad and torch.is_grad_enabled():
        gathered: Tensor = _Gather.apply(rows)
        return gathered
    return _concatenated(rows)[0]


def gather_detached(rows: Tensor) -> Tensor:
    """Like :func:`gather`, without gradients: for banks, queues and labels."""
    return gather(rows.detach())


def total(tensor: Tensor) -> Tensor:
    """Return the sum over processes, the same on every one; backward sums the gradients likewise.

    Parameters
    ----------
    tensor
        Any shape, equal on all processes.
    """
    if size() == 1:
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        summed: Tensor = _Total.apply(tensor)
        return summed
    return summed_over_processes(tensor)


def summed_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum over processes without gradients, as a new tensor of the same dtype."""
    wide = tensor.detach().to(torch.float32) if tensor.dtype in _HALVES else tensor.detach()
    wide = wide.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(wide)
    return wide.to(tensor.dtype)


def row_counts(n_own: int) -> list[int]:
    """Return the number of rows of every process, in rank order."""
    if size() == 1:
        return [n_own]
    # On the CPU even when training on GPUs: the answer is needed as Python
    # integers, and reading it from a GPU would wait for all queued work.
    return [int(count) for count in collected(torch.tensor(n_own))]


def collected(values: Tensor) -> Tensor:
    """Return equally shaped tensors of all processes, (n_processes, ...) in rank order, without gradients."""
    everyone = values.new_empty((size(), *values.shape))
    distributed.all_gather(list(everyone.unbind()), values.detach().contiguous())
    return everyone


def _concatenated(rows: Tensor) -> tuple[Tensor, list[int]]:
    counts = row_counts(len(rows))
    most = max(counts)
    own = rows.detach()
    if len(own) < most:
        own = torch.cat([own, own.new_zeros((most - len(own), *own.shape[1:]))])
    everyone = collected(own)
    if min(counts) == most:
        return everyone.flatten(0, 1), counts
    return torch.cat([part[:count] for part, count in zip(everyone.unbind(), counts, strict=True)]), counts


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered, counts = _concatenated(rows)
        ctx.first = sum(counts[: rank()])
        ctx.last = ctx.first + len(rows)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed_over_processes(gradient)[ctx.first : ctx.last]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        return summed_over_processes(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return summed_over_processes(gradient)
