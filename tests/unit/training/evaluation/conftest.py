"""Images in memory, and a small network, for evaluators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvkit.distributed import rank, world_size
from mvkit.images.settings import Batch
from mvkit.objectives.base import Loss, Objective
from mvkit.training.evaluation import EvaluationContext, shared_plan


@dataclass
class ArrayImages:
    """Views and labels that lie in memory."""

    views: dict[str, Tensor]
    label: dict[str, Tensor]
    n_classes: int | None
    batch_size: int = 16

    def n_images(self, split: str) -> int:
        return len(self.views[split])

    @contextmanager
    def batches(self, split: str, indices: np.ndarray, *, views: str = "validation") -> Iterator:
        copies = 2 if views == "training" else 1
        plan = shared_plan(indices, self.batch_size, n_processes=world_size(), process=rank())
        yield (
            Batch(
                views=(self.views[split][rows],) * copies,
                index=torch.as_tensor(rows),
                label=self.label[split][rows],
            )
            for rows in map(torch.as_tensor, plan)
        )


class SmallNet(nn.Module):
    """Batch norm, dropout and an in-place ReLU: all that evaluation could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(12)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.linear = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.linear(self.drop(self.relu(self.norm(self.flat(images)))))
        return output


class Nothing(Objective):
    """An objective without heads; its loss is the mean of the first view's outputs."""

    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        return (encoder(batch.views[0]),)

    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        return Loss(embedded[0].mean(), {"square": embedded[0].pow(2).mean().detach()})


def clusters() -> ArrayImages:
    """Three clusters of (3, 2, 2) images, 60 to train and 24 to validate."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 12, generator=generator) * 2

    def split(n: int) -> tuple[Tensor, Tensor]:
        label = torch.arange(n) % 3
        values = centres[label] + torch.randn(n, 12, generator=generator)
        return values.view(n, 3, 2, 2), label

    parts = {"train": split(60), "val": split(24)}
    return ArrayImages(
        views={name: part[0] for name, part in parts.items()},
        label={name: part[1] for name, part in parts.items()},
        n_classes=3,
    )


def small_net() -> SmallNet:
    """A network in training mode with statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = SmallNet()
        net(torch.randn(8, 3, 2, 2))
    return net


@pytest.fixture
def images() -> ArrayImages:
    """Three clusters of images."""
    return clusters()


@pytest.fixture
def encoder() -> SmallNet:
    """A small network."""
    return small_net()


@pytest.fixture
def context(images: ArrayImages, encoder: SmallNet) -> Callable[..., EvaluationContext]:
    """Makes a context; the objective is one without heads unless given."""

    def make(objective: Objective | None = None, *, epoch: int = 1) -> EvaluationContext:
        return EvaluationContext(
            encoder=encoder,
            objective=objective or Nothing(seed=0),
            images=images,
            device=torch.device("cpu"),
            epoch=epoch,
            step=10,
            seed=5,
        )

    return make
