"""One remembered embedding for every training image (Wu et al. 2018, section 3.1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mvkit.distributed import all_gather

#: Numbers gathered from the bank, or similarities, held at a time. On a CPU 2 MiB of float32, which stay
#: in its cache (four times faster than 8 MiB); on a GPU 256 MiB, enough to keep it busy.
_BLOCK_CPU = 2**19
_BLOCK_DEVICE = 2**26


class MemoryBank(nn.Module):
    """Unit vectors, float32 (n_images, width), in the buffer ``entries``; the same on all processes."""

    entries: Tensor

    def __init__(self, n_images: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        # The published start: uniform within +-1/sqrt(width/3), then length 1.
        half = 1.0 / math.sqrt(width / 3)
        start = torch.rand(n_images, width, generator=generator).mul_(2 * half).sub_(half)
        self.register_buffer("entries", functional.normalize(start, dim=1))

    def __len__(self) -> int:
        return len(self.entries)

    def products(self, embeddings: Tensor, index: Tensor) -> Tensor:
        """Return inner products of each embedding with its chosen entries.

        Parameters
        ----------
        embeddings
            (n_images, width); gradients flow to them, not to the bank.
        index
            int64 (n_images, n_chosen).

        Returns
        -------
        Tensor
            (n_images, n_chosen). The (n_images, n_chosen, width) entries never exist at once.
        """
        products: Tensor = _ChosenProducts.apply(embeddings, self.entries.to(embeddings.dtype), index)
        return products

    @torch.no_grad()
    def update(self, index: Tensor, embeddings: Tensor, *, momentum: float) -> None:
        """Mix the embeddings of all processes into their entries: normalise(momentum * old + rest * new)."""
        index = all_gather(index)
        fresh = all_gather(embeddings).to(self.entries.dtype)
        mixed = momentum * self.entries[index] + (1 - momentum) * fresh
        self.entries[index] = functional.normalize(mixed, dim=1)

    @torch.no_grad()
    def nearest(self, embeddings: Tensor, *, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the k entries with the largest inner products, in descending order.

        Parameters
        ----------
        embeddings
            (n_images, width); need not be normalised.
        k
            At most the size of the bank.

        Returns
        -------
        tuple
            Inner products (n_images, k) and indices int64 (n_images, k). Of
            the similarities only a block exists at a time.
        """
        embeddings = embeddings.to(self.entries.dtype)
        n_rows = max(k, _block(embeddings) // max(len(embeddings), 1))
        values = embeddings.new_empty(len(embeddings), 0)
        places = torch.empty(len(embeddings), 0, dtype=torch.int64, device=embeddings.device)
        for first in range(0, len(self), n_rows):
            part = self.entries[first : first + n_rows]
            values = torch.cat([values, embeddings @ part.T], dim=1)
            here = torch.arange(first, first + len(part), device=embeddings.device)
            places = torch.cat([places, here.expand(len(embeddings), -1)], dim=1)
            values, best = values.topk(min(k, values.shape[1]), dim=1)
            places = places.gather(1, best)
        return values, places


def _block(like: Tensor) -> int:
    return _BLOCK_CPU if like.device.type == "cpu" else _BLOCK_DEVICE


class _ChosenProducts(torch.autograd.Function):
    """Inner products with gathered rows, gathered again (as a weighted sum) for the gradient."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, entries: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(entries, index)
        products = embeddings.new_empty(index.shape)
        n_rows = max(1, _block(embeddings) // max(index.shape[1] * entries.shape[1], 1))
        for first in range(0, len(index), n_rows):
            rows = slice(first, first + n_rows)
            chosen = entries.index_select(0, index[rows].flatten()).view(*index[rows].shape, -1)
            torch.bmm(chosen, embeddings[rows].unsqueeze(2), out=products[rows].unsqueeze(2))
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        entries, index = ctx.saved_tensors
        weighted = functional.embedding_bag(
            index, entries, per_sample_weights=gradient.contiguous(), mode="sum"
        )
        return weighted, None, None
