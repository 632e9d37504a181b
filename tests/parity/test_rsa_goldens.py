"""Similarities of dissimilarity matrices against the numbers of the 2020 code (goldens section 4).

What is compared is whatever keys the folder holds; counts, seeds and shapes are taken from its files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.scoring.correlation import spearman_brown
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import ImageSplit, SplitHalfScores, half_means, halves_of, splits_of
from mvkit.scoring.settings import ScoreSettings

TOLERANCE = 1e-9
SETTINGS = ScoreSettings(mapping="rsa", parity=True)
RSA = MAPPINGS["rsa"]


@pytest.fixture(scope="module")
def neural(goldens: Path) -> dict[str, Any]:
    """Responses, features, splits."""
    folder = goldens / "neural"
    return {name: dict(np.load(folder / f"{name}.npz")) for name in ("responses", "features", "splits")}


def split_named(name: str, responses: Any, splits: Any) -> ImageSplit:
    """``all`` images, or ``traintest<k>``: the test images of split k."""
    if name == "all":
        return splits_of(responses.shape[1], SETTINGS)[0]
    number = int(name.removeprefix("traintest"))
    return ImageSplit(splits["train_idx"][number], splits["test_idx"][number])


def test_a_layer_against_an_animal(goldens: Path, neural: dict[str, Any]) -> None:
    stored = np.load(goldens / "neural" / "model_to_brain.npz")
    found: dict[str, SplitHalfScores] = {}
    compared = []
    for key in stored.files:
        match = re.fullmatch(r"(f(\d+)\|(\w+)\|identity_rsa\|(\w+))(?:\|(r_target|r_cross|r_map))?", key)
        if match is None:
            continue
        whole, width, specimen, images, part = match.groups()
        expected = stored[key]
        if whole not in found:
            responses = neural["responses"][specimen]
            split = split_named(images, responses, neural["splits"])
            layer = RSA.prepare("golden", neural["features"][f"features_{width}"], [split], SETTINGS)
            orders = neural["splits"]["trial_perm"][: expected.size]
            found[whole] = RSA.score(responses, halves_of(orders), [split], [layer], SETTINGS)[0]
        values = getattr(found[whole], part or "scores")[0, :, 0]
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE, err_msg=key)
        compared.append(key)
    assert compared == [key for key in stored.files if "identity_rsa" in key]
    assert len(compared) == 4 * len(found) > 0


def test_reliability_of_an_animals_dissimilarities(goldens: Path, neural: dict[str, Any]) -> None:
    stored = np.load(goldens / "neural" / "reliability.npz")
    compared = []
    for key in stored.files:
        match = re.fullmatch(r"(\w+)\|rsa\|per_trial_seed", key)
        if match is None:
            continue
        responses, expected = neural["responses"][match[1]], stored[key]
        orders = neural["splits"]["trial_perm"][: expected.size]
        means = half_means(responses, halves_of(orders))
        parts = RSA.between(means, means, splits_of(responses.shape[1], SETTINGS), SETTINGS)
        np.testing.assert_allclose(
            spearman_brown(parts.r_target[0, :, 0]), expected, rtol=0, atol=TOLERANCE, err_msg=key
        )
        compared.append(key)
    assert compared == [key for key in stored.files if "|rsa|" in key]
    assert len(compared) > 0
