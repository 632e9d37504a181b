"""Instance recognition: tell every image from noise samples of a memory bank (Wu et al. 2018)."""

from __future__ import annotations

import math
from typing import ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.draws import hashed
from mvkit.images.batch import Batch
from mvkit.objectives.base import Loss, Objective, features, single_precision
from mvkit.objectives.global_batch import batch_mean
from mvkit.objectives.memory_bank import MemoryBank
from mvkit.objectives.settings import InstanceRecognition
from mvkit.objectives.surroundings import Surroundings

#: Normalising constant for each image of ImageNet's training set, estimated once by Wu et al. (section 3.2).
_PARTITION_PER_IMAGE = 2876934.2 / 1281167
_EPSILON = 1e-7
_NOISE = crc32(b"instance recognition: noise")


class InstanceRecognitionObjective(Objective):
    """Noise-contrastive estimation against a memory bank (Wu et al. 2018, equations 4 to 8).

    Data term: -log h(i, v_i); noise term: the sum over m noise samples of
    -log(1 - h(i, v')), with h = p / (p + m/N) and p = exp(v.f / temperature) / Z.
    """

    scores_new_images: ClassVar[bool] = False

    def __init__(self, settings: InstanceRecognition, around: Surroundings) -> None:
        super().__init__(seed=around.seed)
        self.settings = settings
        self.fc = nn.Linear(around.width, settings.width)
        generator = around.generator("memory bank")
        self.bank = MemoryBank(around.n_images, settings.width, generator=generator)

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
