"""MoCo v2: recognise an image's other view among a queue of earlier ones (Chen et al. 2020b)."""

from __future__ import annotations

import copy
from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.distributed import all_gather, world_size
from mvkit.images.settings import Batch
from mvkit.objectives.base import (
    BuildContext,
    Loss,
    Objective,
    accuracies,
    features,
    mean_cross_entropy,
    share_of,
    single_precision,
)
from mvkit.objectives.heads import moco_neck
from mvkit.objectives.registry import MoCoV2
from mvkit.rng import hashed

_SHUFFLE = crc32(b"moco v2: shuffle")


class MoCoV2Objective(Objective):
    """InfoNCE over one key and a queue of old keys (He et al. 2020, equations 1 and 2).

    Keys come from a momentum copy of encoder and neck, which takes part in
    training mode but receives no gradients.
    """

    n_inputs: ClassVar[int] = 2
    queue: Tensor
    position: Tensor

    def __init__(self, settings: MoCoV2, context: BuildContext) -> None:
        super().__init__(seed=context.seed)
        self.settings = settings
        self.neck = moco_neck(context.width, settings.hidden, settings.width)
        self.key_encoder = copy.deepcopy(context.encoder)
        self.key_neck = copy.deepcopy(self.neck)
        self.key_encoder.requires_grad_(requires_grad=False)
        self.key_neck.requires_grad_(requires_grad=False)
        generator = context.generator("queue")
        start = torch.randn(settings.queue, settings.width, generator=generator)
        self.register_buffer("queue", functional.normalize(start, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def before_step(self, encoder: nn.Module, *, step: int) -> None:
        """Move the key encoder and neck towards the query's (He et al. 2020, equation 2).

        Parameters only: batch norms keep statistics of their own. Frozen
        parameters (masks) are equal in both and stay exactly so.
        """
        super().before_step(encoder, step=step)
        for queries, keys in ((encoder, self.key_encoder), (self.neck, self.key_neck)):
            for query, key in zip(queries.parameters(), keys.parameters(), strict=True):
                if query.requires_grad:
                    key.mul_(self.settings.momentum).add_(query, alpha=1 - self.settings.momentum)

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return unit queries (of view 1) and keys (of view 2), (n_images, width) each."""
        query_view, key_view = self.inputs(batch)
        queries = functional.normalize(self.neck(features(encoder, query_view)), dim=1)
        with torch.no_grad():
            keys = self._keys(key_view)
        return queries, keys

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the cross entropy of the key against the queue as it was before this step."""
        del batch
        queries, keys = embedded
        keys = keys.detach()
        positive = (queries * keys).sum(1, keepdim=True)
        negative = queries @ self.queue.to(queries.dtype).T
        logits = torch.cat([positive, negative], dim=1) / self.settings.temperature
        classes = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        return Loss(mean_cross_entropy(logits, classes), accuracies(logits, classes))

    @torch.no_grad()
    def after_step(self, embedded: tuple[Tensor, ...], batch: Batch) -> None:
        """Put the keys of all processes into the queue, over the oldest ones."""
        del batch
        keys = all_gather(single_precision(embedded[1])).to(self.queue.dtype)
        rows = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        # Of more keys than the queue has rows only the last stay.
        self.queue[rows[-len(self.queue) :]] = keys[-len(self.queue) :]
        self.position.copy_((self.position + len(keys)) % len(self.queue))

    def draw_shuffle(self, n_images: int) -> Tensor:
        """Return this step's permutation of the global batch, the same on all processes."""
        drawn = hashed(self.seed, _SHUFFLE, self.step, torch.arange(n_images))
        return torch.argsort(drawn, stable=True)

    def _keys(self, images: Tensor) -> Tensor:
        """Return the images' keys, computed on another mix of images in every process.

        Otherwise a batch norm over a process's own images would leak which key
        belongs to which query (He et al. 2020, section 3.3). One process
        cannot exchange images.
        """
        if world_size() == 1:
            return self._encode_keys(images)
        share = share_of(len(images))
        own = slice(share.first, share.first + share.n_own)
        order = self.draw_shuffle(share.n_all).to(images.device, non_blocking=True)
        shuffled = self._encode_keys(all_gather(images)[order[own]])
        return all_gather(shuffled)[torch.argsort(order)[own]]

    def _encode_keys(self, images: Tensor) -> Tensor:
        return functional.normalize(self.key_neck(features(self.key_encoder, images)), dim=1)
