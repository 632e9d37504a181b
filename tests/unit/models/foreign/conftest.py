"""A user's file with small networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.GELU()
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x + self.pointwise(self.act(self.norm(self.depthwise(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.block = Block(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        low = self.relu(self.stem(x))
        high = self.relu(self.block(low))
        pooled = high.mean((2, 3))
        return {"map": high, "outputs": (pooled, self.head(pooled))}


def make():
    return Net()


def tensor_only():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def compiled():
    return torch.compile(nn.DataParallel(Net()))


def compiled_inside():
    net = Net()
    net.block = torch.compile(net.block)
    return net


def declaring():
    from mvkit.models import Preprocessing

    net = Net()
    net.layers = ["block", "relu"]
    net.preprocess = Preprocessing(None, 16, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return net


def preparing():
    net = Net()
    net.preprocess = lambda images: torch.zeros(len(images), 3, 8, 8)
    return net


def fails():
    return [][1]


def number():
    return 3


def needs(width):
    return Net()


def lazy():
    return nn.LazyLinear(3)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """The file."""
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def user_file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file of the user's."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
