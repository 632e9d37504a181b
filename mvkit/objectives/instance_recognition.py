"""Instance recognition: distinguish every image from noise samples of a memory bank (Wu et al. 2018)."""

from __future__ import annotations

import math
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mvkit.distributed import all_gather
from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective, batch_mean, features, single_precision
from mvkit.objectives.registry import InstanceRecognition
from mvkit.rng import hashed

#: Values gathered from the bank, or similarities, in memory at a time. On a CPU 2 MiB of float32, which stay
#: in its cache (four times faster than 8 MiB); on a GPU 256 MiB.
_BLOCK_CPU = 2**19
_BLOCK_DEVICE = 2**26


class MemoryBank(nn.Module):
    """Unit vectors, float32 (n_images, width), in the buffer ``entries``; the same on all processes."""

    entries: Tensor

    def __init__(self, n_images: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        # The published initial values: uniform within +-1/sqrt(width/3), then length 1.
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
        indices = torch.empty(len(embeddings), 0, dtype=torch.int64, device=embeddings.device)
        for first in range(0, len(self), n_rows):
            part = self.entries[first : first + n_rows]
            values = torch.cat([values, embeddings @ part.T], dim=1)
            part_indices = torch.arange(first, first + len(part), device=embeddings.device)
            indices = torch.cat([indices, part_indices.expand(len(embeddings), -1)], dim=1)
            values, best = values.topk(min(k, values.shape[1]), dim=1)
            indices = indices.gather(1, best)
        return values, indices


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


#: Normalising constant for each image of ImageNet's training set, estimated once by Wu et al. (section 3.2).
_PARTITION_PER_IMAGE = 2876934.2 / 1281167
_EPSILON = 1e-7
_NOISE = crc32(b"instance recognition: noise")


class InstanceRecognitionObjective(Objective):
    """Noise-contrastive estimation against a memory bank (Wu et al. 2018, equations 4 to 8).

    Data term: -log h(i, v_i); noise term: the sum over m noise samples of
    -log(1 - h(i, v')), with h = p / (p + m/N) and p = exp(v.f / temperature) / Z.
    """

    def __init__(self, settings: InstanceRecognition, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.settings = settings
        self.fc = nn.Linear(context.width, settings.width)
        generator = context.generator("memory bank")
        self.bank = MemoryBank(context.n_images, settings.width, generator=generator)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return unit vectors (n_images, width)."""
        (images,) = self.inputs(batch)
        return (functional.normalize(self.fc(features(encoder, images)), dim=1),)

    def draw_noise(self, index: Tensor) -> Tensor:
        """Return these images' noise samples in this step: int64 (n_images, m), uniform over the bank."""
        samples = torch.arange(self.settings.noise_samples, device=index.device)
        bits = hashed(self.seed, _NOISE, self.step, index[:, None], samples)
        drawn: Tensor = (bits * len(self.bank)) >> 32
        return drawn

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the sum of data and noise terms, each a mean over the images of the global batch."""
        (embeddings,) = embedded
        noise = self.draw_noise(batch.index)
        n_entries, n_noise = len(self.bank), noise.shape[1]
        log_partition = math.log(_PARTITION_PER_IMAGE * n_entries)
        density = n_noise / n_entries
        floor = density + _EPSILON
        # log of p over (m/N + 1e-7): all terms follow from it without exp(p), exact also in float32.
        products = self.bank.products(embeddings, torch.cat([batch.index[:, None], noise], dim=1))
        excess = products / self.settings.temperature - (log_partition + math.log(floor))
        data = batch_mean(_softplus(-excess[:, 0]))
        noise_terms = _softplus(excess[:, 1:]) + math.log(floor / density)
        noise_loss = batch_mean(noise_terms.sum(1))
        return Loss(data + noise_loss, {"data": data.detach(), "noise": noise_loss.detach()})

    def after_step(self, embedded: tuple[Tensor, ...], batch: Batch) -> None:
        """Mix this step's embeddings, of all processes, into the bank."""
        embeddings = single_precision(embedded[0].detach())
        self.bank.update(batch.index, embeddings, momentum=self.settings.bank_momentum)


def _softplus(values: Tensor) -> Tensor:
    """Return log(1 + exp(values)); torch's default goes over to the identity at 20, an error of 2e-9."""
    return functional.softplus(values, threshold=40.0)
