"""Features that are looked at one by one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mvkit.errors import DataError, FitError
from mvkit.features.stored_layer import StoredLayer
from mvkit.scoring import ScoreSettings, sparse
from mvkit.scoring.gram import BLOCK_FEATURES
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.one_to_one import CONSTANT, Sources, distinct_sources, layer_sources, prepare_sources
from mvkit.scoring.protocol import ImageSplit

WIDTH = 2 * BLOCK_FEATURES + 10
SPLIT = ImageSplit(np.arange(6), np.arange(6, 9))
DTYPES = ("float16", "float32", "float64", "int64", "bool")


def wide(dtype: str) -> NDArray[Any]:
    """Features most of which recur in other blocks."""
    few = np.random.default_rng(0).integers(-30, 30, (9, 400)).astype(dtype)
    features: NDArray[Any] = few[:, np.random.default_rng(1).integers(0, 400, WIDTH)]
    features[:, 5] = features[:, 4]
    return features


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_equal_features_is_kept_across_blocks(dtype: str) -> None:
    features = wide(dtype)
    seen: dict[bytes, int] = {}
    for position, column in enumerate(features.T):
        seen.setdefault(column.tobytes(), position)
    kept = distinct_sources("a", features).kept
    np.testing.assert_array_equal(kept, sorted(seen.values()))


def test_nothing_is_copied_and_little_is_sent_to_workers(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((9, WIDTH)).astype(np.float32)
    for sources in (
        layer_sources("a", features),
        distinct_sources("a", features),
    ):
        assert sources.features is features and sources.kept is None
    path = tmp_path / "a.f4"
    features.tofile(path)
    stored = distinct_sources("a", StoredLayer(path, features.shape))
    assert len(pickle.dumps(stored)) < 1000


@pytest.mark.parametrize("stored", [False, True])
def test_blocks_and_single_features_hold_the_values_of_the_layer(stored: bool, tmp_path: Path) -> None:
    features = wide("float32")
    path = tmp_path / "a.f4"
    features.tofile(path)
    layer: Any = StoredLayer(path, features.shape) if stored else features
    for kept in (None, np.array([0, 3, BLOCK_FEATURES - 1, BLOCK_FEATURES, WIDTH - 1])):
        sources = Sources(layer, kept)
        blocks = list(sources.blocks(SPLIT.train, 500))
        expected = np.arange(WIDTH) if kept is None else kept
        np.testing.assert_array_equal(np.concatenate([positions for positions, _ in blocks]), expected)
        values = np.concatenate([values for _, values in blocks])
        np.testing.assert_array_equal(values, features[SPLIT.train][:, expected].T)
        assert values.dtype == np.float64 and max(len(positions) for positions, _ in blocks) <= 500
    positions = np.array([WIDTH - 1, 0, BLOCK_FEATURES, 7, 0])
    np.testing.assert_array_equal(sources.at(positions, SPLIT.test), features[SPLIT.test][:, positions].T)


def test_a_layer_that_varies_only_at_its_end_varies() -> None:
    features = np.full((9, WIDTH), 0.1)
    assert prepare_sources(Sources(features), SPLIT).reason == CONSTANT
    features[7, 3] = 1.0  # over test images only
    assert prepare_sources(Sources(features), SPLIT).reason == CONSTANT
    features[2, -1] = 1.0
    assert prepare_sources(Sources(features), SPLIT).reason == ""


@pytest.mark.parametrize("mapping", ["one-to-one", "lasso", "elasticnet"])
def test_features_that_are_not_finite_are_refused_by_place(mapping: Any) -> None:
    features = wide("float32")
    features[2, BLOCK_FEATURES + 1] = np.nan
    with pytest.raises(DataError, match=f"layer 'a': feature {BLOCK_FEATURES + 1} of image 2 is nan"):
        MAPPINGS[mapping].prepare("a", features, [SPLIT], ScoreSettings(mapping=mapping))


@pytest.mark.parametrize("mapping", ["lasso", "elasticnet"])
def test_what_does_not_fit_in_memory_is_refused_with_numbers(
    mapping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * 9 * WIDTH * 8
    settings = ScoreSettings(mapping=mapping)
    features = wide("float32")
    for available in (None, needed):
        monkeypatch.setattr(sparse, "available_memory", lambda available=available: available)
        assert len(MAPPINGS[mapping].prepare("a", features, [SPLIT], settings)) == 1
    monkeypatch.setattr(sparse, "available_memory", lambda: needed - 1)
    layer = StoredLayer(Path("not read"), (118, 3211264))
    told = rf"'conv1': {mapping} needs 6\.1 GB .* 3211264 features of 118 images, and 0\.0 GB .*--map ridge"
    with pytest.raises(FitError, match=told):
        MAPPINGS[mapping].prepare("conv1", layer, [SPLIT], settings)
