"""Toy networks whose every value can be worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvkit.models.preprocessing import Preprocessing


class Chain(nn.Module):
    """Convolution, in-place ReLU, pool; then a head. Counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = nn.Linear(4 * 3 * 3, 5)
        self.n_passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.n_passes += 1
        return self.head(self.features(images).flatten(1))


class Branching(nn.Module):
    """One ReLU used twice, a module that is never used, and outputs that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 3)
        self.relu = nn.ReLU()
        self.spare = nn.Linear(3, 3)
        self.pair, self.names, self.summed = Pair(), Named(), Summed()
        self.word, self.nothing = Word(), nn.Identity()
        self.banks = nn.ModuleList([nn.Identity()])

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.relu(self.first(rows))
        output: Tensor = self.relu(self.second(-hidden))
        self.pair(output)
        self.names(output)
        self.summed(output)
        self.word(output)
        self.nothing(output[:, :0])
        return output


class Pair(nn.Module):
    def forward(self, rows: Tensor) -> tuple[Tensor, None, Tensor]:
        return rows + 1, None, rows + 2


class Named(nn.Module):
    def forward(self, rows: Tensor) -> dict[str, object]:
        return {"mean": rows.mean(1), "inner": [rows * 3]}


class Summed(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.sum()


class Word(nn.Module):
    def forward(self, rows: Tensor) -> str:
        return "text"


class Prepared(Chain):
    """A network with all that mvkit's own models have: taps, published layers, preprocessing, a name."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "toy"
        self.layers = ("VISp2/3", "conv")
        self.weights_id = "random:seed=5"
        self.preprocess = Preprocessing(
            resize_px=8, crop_px=8, input_px=None, mean=(0.5,) * 3, std=(0.5,) * 3, grey=False
        )

    def tap_points(self) -> dict[str, str]:
        return {"conv": "features.0", "relu": "features.1", "VISp2/3": "features.2", "final": ""}


@pytest.fixture()
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain()


@pytest.fixture()
def branching() -> Branching:
    torch.manual_seed(0)
    return Branching()


@pytest.fixture()
def prepared() -> Prepared:
    torch.manual_seed(0)
    return Prepared()


@pytest.fixture()
def inputs() -> Tensor:
    """Seven network inputs of 8 x 8 px."""
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture()
def pictures() -> np.ndarray:
    """Seven grey pictures of 9 x 11 px."""
    return np.random.default_rng(2).integers(0, 256, (7, 9, 11), dtype=np.uint8)


@pytest.fixture()
def module_calls():
    """Count how often each module of a network runs: ``counts = module_calls(model)``."""

    def watch(model: nn.Module) -> Counter[str]:
        counts: Counter[str] = Counter()
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda module, arguments, path=path: counts.update([path]))
        return counts

    return watch
