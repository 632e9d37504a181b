"""The goldens' filling rule (goldens README section 1) and filled models."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
_PIECE = 1 << 15


@dataclass(frozen=True)
class FillingRule:
    """Deterministic numbers from an index, a tag and a seed."""

    seed: int

    def uniform(self, index: NDArray[np.int64], tag: str) -> Array:
        """u(i, tag): float64 in [0, 1)."""
        start = np.uint32((zlib.crc32(tag.encode()) + self.seed * 0x85EBCA6B) % 2**32)
        x = index.astype(np.uint32)  # wraps modulo 2**32, as the rule wants
        x *= np.uint32(0x9E3779B1)
        x += start
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x ^= x >> np.uint32(shift)
            x *= np.uint32(factor)
        x ^= x >> np.uint32(16)
        return x / 2.0**32

    def signed(self, index: NDArray[np.int64], tag: str) -> Array:
        """s(i, tag): float64 in [-1, 1)."""
        return 2 * self.uniform(index, tag) - 1

    def fill(self, key: str, entry: torch.Tensor) -> None:
        """Give the state-dict entry ``key`` its values."""
        flat = entry.view(-1).numpy()
        # In pieces that stay in the cache: the largest entry has 103 million values.
        for first in range(0, flat.size, _PIECE):
            index = np.arange(first, min(first + _PIECE, flat.size))
            flat[index[0] : index[-1] + 1] = self._piece(index, key, tuple(entry.shape))

    def _piece(self, index: NDArray[np.int64], key: str, shape: tuple[int, ...]) -> Array:
        if key.endswith("num_batches_tracked"):
            return np.zeros(index.size)
        if key.endswith("running_mean"):
            return 0.2 * self.signed(index, key)
        if key.endswith("running_var"):
            return 0.5 + self.uniform(index, key)
        if key.endswith(".mask"):
            return (self.uniform(index, key) < 0.3).astype(np.float64)
        if len(shape) == 1:
            return (
                1 + 0.2 * self.signed(index, key) if key.endswith("weight") else 0.1 * self.signed(index, key)
            )
        density = 0.3 if key.startswith("Convs.") else 1.0
        return np.sqrt(3 * (2 / density) / np.prod(shape[1:])) * self.signed(index, key)

    def positions(self, n: int, tag: str, size: int) -> NDArray[np.int64]:
        """Floor of u(j, tag) * size for j = 0 ... n - 1: where values were sampled."""
        return np.floor(self.uniform(np.arange(n), tag) * size).astype(np.int64)

    def images(self) -> torch.Tensor:
        """The input batch, float64 (4, 3, 64, 64)."""
        shape = (4, 3, 64, 64)
        flat = np.sqrt(3) * self.signed(np.arange(np.prod(shape)), "input")
        return torch.from_numpy(flat.reshape(shape))


@pytest.fixture(scope="session")
def filling(golden_seed: int) -> FillingRule:
    """The filling rule with the seed of the goldens at hand."""
    return FillingRule(golden_seed)


@pytest.fixture(scope="session")
def state_dicts(goldens: Path) -> dict[str, list[tuple[str, list[int], str]]]:
    """Architecture -> entries (key, shape, dtype) in order."""
    return {name: [tuple(row) for row in rows] for name, rows in json.loads(_state_dicts(goldens)).items()}


def _state_dicts(goldens: Path) -> str:
    return (goldens / "models" / "state_dicts.json").read_text()


@pytest.fixture(scope="session")
def filled_model(filling: FillingRule) -> Callable[[str], torch.nn.Module]:
    """Build an architecture with the filling rule's float64 weights."""
    from mvkit.models.loading import build
    from mvkit.models.registry import ARCHITECTURES

    def filled(name: str) -> torch.nn.Module:
        with torch.device("meta"):  # no time is spent on drawing weights that are overwritten
            model = build(ARCHITECTURES[name].blueprint)
        model = model.double().to_empty(device="cpu")
        for key, entry in model.state_dict().items():
            filling.fill(key, entry)
        return model.eval()

    return filled
