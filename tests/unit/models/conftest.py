"""A small model and files in the formats in which checkpoints come."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from mvkit.models.base import VisionModel
from mvkit.models.loading import build
from mvkit.models.registry import find_model


@pytest.fixture(scope="session")
def shapes_only() -> Callable[[str], VisionModel]:
    """Build a model by name once, without memory for its weights."""

    @cache
    def built(name: str) -> VisionModel:
        with torch.device("meta"):
            return build(find_model(name).architecture.blueprint)

    return built


class Tiny(VisionModel):
    """A convolution, a batch norm and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 2)
        self.name = "tiny"


@pytest.fixture
def tiny() -> Tiny:
    """A model whose weights differ from those of ``weights``."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Tiny()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Weights for ``tiny``; every entry has values of its own."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5
        if value.is_floating_point()
        else torch.tensor(17)
        for key, value in Tiny().state_dict().items()
    }


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    """Write an object as torch 1.6 (zip) or older (legacy) did; returns the path."""

    def written(contents: object) -> Path:
        path = tmp_path / f"{request.param}.pt"
        torch.save(contents, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return written
