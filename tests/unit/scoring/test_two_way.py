"""Two-way comparisons, against scikit-learn by hand and against populations of known likeness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.linear_model import Ridge

from mvkit.errors import UsageError
from mvkit.scoring import resolve_settings, score_features
from mvkit.scoring.protocol import image_splits
from mvkit.scoring.two_way import N_FEATURES, compare_two_ways, draw_features

Array = NDArray[np.float64]
Recorder = Callable[..., Any]
SETTINGS = resolve_settings(mapping="ridge", n_splits=2, n_halves=3)


def _animals(recording: Recorder, latents: Array, *, n: int = 4, noise: float = 0.5) -> list[Any]:
    rng = np.random.default_rng(2)
    rank = latents.shape[1]
    return [
        recording(
            latents @ rng.standard_normal((rank, 25)) + noise * rng.standard_normal((6, len(latents), 25)),
            specimen=specimen,
        )
        for specimen in range(n)
    ]


def _compared(recordings: list[Any], features: Array) -> Any:
    scores = score_features({"layer": features}, recordings, SETTINGS)
    units = scores.chosen_units()["VISp"]
    medians = {a: float(np.nanmedian(units.score[units.specimen == a])) for a in np.unique(units.specimen)}
    layers = {"VISp": ("layer", draw_features(features, SETTINGS), medians)}
    return compare_two_ways(recordings, layers, SETTINGS)


@pytest.fixture(scope="module")
def latents() -> Array:
    return np.random.default_rng(1).standard_normal((80, 6))


def test_a_model_like_an_animal_is_as_near_as_one(recording: Recorder, latents: Array) -> None:
    like = latents @ np.random.default_rng(5).standard_normal((6, 25))
    row = _compared(_animals(recording, latents), like).table().iloc[0]
    assert row["verdict"] in ("as near as another animal", "nearer than another animal")
    assert row["from_model"] > 0.9 and row["to_model"] > 0.9 and row["between"] > 0.9


def test_a_model_that_holds_much_else_predicts_animals_and_is_far_from_them(
    recording: Recorder, latents: Array
) -> None:
    rng = np.random.default_rng(6)
    more = np.hstack([latents @ rng.standard_normal((6, 20)), 3 * rng.standard_normal((80, 60))])
    recordings = _animals(recording, latents)
    row = _compared(recordings, more).table().iloc[0]
    assert row["from_model"] > 0.4
    assert row["to_model"] < 0.3
    assert row["verdict"] == "further than another animal"
    assert row["high"] < 0


def test_numbers_are_those_of_ridge_by_hand(recording: Recorder, latents: Array) -> None:
    """Features from one animal: halves of its trials, features without noise."""
    recordings = _animals(recording, latents, n=3)
    features = latents @ np.random.default_rng(5).standard_normal((6, 10)) + 1
    area = _compared(recordings, features).areas[0]
    n_trials, corrected = 6, []
    for split in image_splits(80, n_splits=2, train_fraction=0.5):
        for draw in range(3):
            generator = np.random.RandomState(draw)
            generator.shuffle(np.arange(2))  # the target's two equal trials are drawn first
            order = np.arange(n_trials)
            generator.shuffle(order)
            predictions = []
            for half in (order[:3], order[3:]):
                source = recordings[0].responses[half].mean(axis=0)
                model = Ridge(1.0).fit(source[split.train], features[split.train])
                predictions.append(model.predict(source[split.test]))
            for unit in range(10):
                p1, p2 = (part[:, unit] for part in predictions)
                r_cross = np.corrcoef(p1, features[split.test, unit])[0, 1]
                r_map = np.corrcoef(p1, p2)[0, 1]
                corrected.append(r_cross / np.sqrt(2 * r_map / (1 + r_map)))
    by_unit = np.reshape(corrected, (6, 10)).mean(axis=0)
    assert area.to_model[0] == pytest.approx(np.median(by_unit), abs=1e-10)
    both = (area.between + area.between.T) / 2
    difference = (area.from_model + area.to_model) / 2 - np.nanmean(both, axis=1)
    half = t.ppf(0.975, 2) * difference.std(ddof=1) / np.sqrt(3)
    expected = (difference.mean(), difference.mean() - half, difference.mean() + half)
    assert area.difference(0.95) == pytest.approx(expected, abs=1e-12)


def test_two_animals_determine_nothing(recording: Recorder, latents: Array) -> None:
    row = _compared(_animals(recording, latents, n=2), latents).to_json()[0]
    assert row["low"] is None
    assert row["verdict"] == "not determined: fewer than 3 animals"


def test_features_are_drawn_once_and_in_order() -> None:
    features = np.arange(2.0 * N_FEATURES)[None].repeat(3, axis=0)
    drawn = draw_features(features, SETTINGS)
    assert drawn.shape == (3, N_FEATURES)
    assert np.all(np.diff(drawn[0]) > 0)
    assert drawn.tolist() == draw_features(features, SETTINGS).tolist()
    assert draw_features(features[:, :4], SETTINGS).tolist() == features[:, :4].tolist()


@pytest.mark.parametrize(
    "options, text",
    [({"mapping": "cka"}, "cka is the same both ways"), ({"measure": "feve"}, "not by measure feve")],
)
def test_what_has_no_two_ways_is_refused(
    options: dict[str, str], text: str, recording: Recorder, latents: Array
) -> None:
    with pytest.raises(UsageError, match=text):
        compare_two_ways(_animals(recording, latents), {}, resolve_settings(**options))
