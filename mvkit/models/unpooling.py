"""Max unpooling with a defined winner where pooling windows overlap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaxUnpool(nn.Module):
    """Put pooled values back where their maxima were; all other positions are zero."""

    def forward(self, pooled: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
        """Unpool.

        Parameters
        ----------
        pooled
            Values (n_images, channels, h, w).
        indices
            int64, same shape: flat position in the unpooled map, as returned by max pooling.
        size
            Height and width of the unpooled map.

        Returns
        -------
        Tensor
            (n_images, channels, *size). Where windows overlap and several values
            go to one position, the last one in C order of the pooled map stays,
            on every device (golden section 2).
        """
        flat: Tensor = _LastWins.apply(pooled.flatten(2), indices.flatten(2), size.numel())
        return flat.reshape(*pooled.shape[:2], *size)


class _LastWins(torch.autograd.Function):
    """Scatter (n, channels, n_values) to (n, channels, n_positions)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, targets: Tensor, n_positions: int) -> Tensor:
        ctx.save_for_backward(targets)
        order = torch.arange(targets.shape[2], device=targets.device).expand_as(targets)
        # The highest order wins: a maximum does not depend on the order of writing, a plain scatter does.
        last = order.new_full((*targets.shape[:2], n_positions), -1)
        last = last.scatter_reduce(2, targets, order, "amax")
        wins = last.gather(2, targets) == order
        # Losers go to a spare slot behind the map, so no two values that count share a position.
        spare = torch.full_like(targets, n_positions)
        flat = values.new_zeros((*values.shape[:2], n_positions + 1))
        flat.scatter_(2, torch.where(wins, targets, spare), values)
        return flat[..., :n_positions].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # As in torch's own unpooling, with which the published networks were trained, the gradient of a
        # position goes to every value that was sent there, also to those that were overwritten.
        (targets,) = ctx.saved_tensors
        return gradient.gather(2, targets), None, None
