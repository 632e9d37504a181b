"""Animals, maps and expected numbers of the goldens between animals (goldens sections 4 and 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.ceilings import PairSize
from mvkit.scoring.protocol import pool_responses

# Name in the goldens -> settings and tolerance; pls is followed by its number of components.
MAPS: dict[str, tuple[dict[str, Any], float]] = {
    "corr": ({"mapping": "one-to-one"}, 1e-9),
    "ridge": ({"mapping": "ridge", "ridge_alpha": 1.0}, 1e-9),
    "identity": ({"mapping": "rsa"}, 1e-9),
    "identity_rsa": ({"mapping": "rsa"}, 1e-9),
    "pls": ({"mapping": "pls"}, 1e-6),
}


@dataclass(frozen=True)
class Animal:
    """What scoring needs of a recording."""

    area: str
    specimen: int
    unit_ids: Any
    responses: Any


class Interanimal:
    """The animals of ``neural/responses.npz``, in ascending order, and how numbers are compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.animals = [
            Animal(area, int(specimen), np.arange(responses.shape[2]), responses)
            for key, responses in np.load(folder / "neural" / "responses.npz").items()
            for area, specimen in [key.split("_")]
        ]
        self.animals.sort(key=lambda animal: animal.specimen)

    def expected(self, file: str) -> dict[str, Any]:
        """Arrays of a file, by their keys."""
        return dict(np.load(self.folder / file))

    def of_pair(self, match: re.Match[str]) -> tuple[Any, Any]:
        """Responses of target and source; "holdout" means all other animals of the area."""
        area = {str(animal.specimen): animal for animal in self.animals if animal.area == match["area"]}
        target = area.pop(match["target"])
        sources = area.values() if match["source"] == "holdout" else [area[match["source"]]]
        return target.responses, pool_responses([animal.responses for animal in sources])

    def options(self, name: str) -> tuple[dict[str, Any], float]:
        """Settings and tolerance of a map's name in the goldens."""
        pls = re.fullmatch(r"pls(\d+)", name)
        if pls is None:
            return MAPS[name]
        return {**MAPS["pls"][0], "n_components": int(pls[1])}, MAPS["pls"][1]

    def size(self, target: Any, source: Any, n_predictors: int | None = None) -> PairSize:
        """Size of a pair of responses."""
        n_units = source.shape[2]
        return PairSize(target.shape[0], source.shape[0], target.shape[1], n_units, n_predictors or n_units)

    def assert_equal(self, found: Any, expected: Any, tolerance: float, what: str) -> None:
        """Same shape, same gaps, same values."""
        assert found.shape == expected.shape, what
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=what)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=what)

    def assert_complete(self, file: str, patterns: Sequence[re.Pattern[str]]) -> None:
        """Every key of a file fits exactly one of the patterns whose keys the tests go through."""
        count = dict.fromkeys((pattern.pattern for pattern in patterns), 0)
        for key in self.expected(file):
            fitting = [pattern.pattern for pattern in patterns if pattern.fullmatch(key)]
            assert len(fitting) == 1, f"{file}: {key} fits {fitting}"
            count[fitting[0]] += 1
        assert all(count.values()), count


@pytest.fixture(scope="session")
def interanimal(goldens: Path) -> Interanimal:
    """The goldens between animals."""
    return Interanimal(goldens)
