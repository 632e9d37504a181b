"""Scores that were kept: the same to the last bit, and believed only while nothing has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.cache import Store
from mvkit.pipeline import cached as kept_module
from mvkit.pipeline.cached import SCORES_KIND as KIND
from mvkit.pipeline.cached import DiskScoreCache
from mvkit.scoring import Scores, ScoreSettings, run, score_features
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.run import LayerSource, score_layers

N_IMAGES = 36
SETTINGS = ScoreSettings(n_splits=2, n_halves=3, n_components=3)


@dataclass(frozen=True)
class Key:
    """Stands for a layer."""

    key: str
    fingerprint: Any


KEYS = {name: Key(f"key of {name}", np.array([float(len(name)), 2.5])) for name in ("a", "bb", "ccc")}


@pytest.fixture(scope="module")
def features() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {name: rng.standard_normal((N_IMAGES, 7 + len(name))) for name in KEYS}


@pytest.fixture(scope="module")
def recordings(recording: Callable[..., Any], features: dict[str, Any]) -> list[Any]:
    """Three recordings; one unit is silent, so that some rows have reasons."""
    rng = np.random.default_rng(3)
    found = []
    for area, specimen, n_units in (("VISp", 1, 4), ("VISp", 2, 3), ("VISl", 2, 5)):
        tuning = features["a"] @ rng.standard_normal((8, n_units))
        responses = (tuning + rng.standard_normal((6, N_IMAGES, n_units))).astype(np.float32)
        responses[:, :, 1] = 0.0
        found.append(recording(responses, area=area, specimen=specimen))
    return found


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the jobs done: layers, and units of the recording."""
    jobs: list[tuple[int, int]] = []
    measure = run._score_recording

    def counted(responses: Any, weights: Any, splits: Any, layers: Sequence[Any], *others: Any) -> Any:
        jobs.append((len(layers), responses.shape[2]))
        return measure(responses, weights, splits, layers, *others)

    monkeypatch.setattr(run, "_score_recording", counted)
    return jobs


def source_of(features: Mapping[str, Any], opened: list[tuple[str, ...]] | None = None) -> LayerSource:
    @contextmanager
    def some(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        if opened is not None:
            opened.append(tuple(names))
        yield {name: features[name] for name in names}

    return LayerSource(tuple(features), some)


def scored(
    features: Mapping[str, Any],
    recordings: Sequence[Any],
    folder: Path,
    settings: ScoreSettings = SETTINGS,
    keys: Mapping[str, Key] = KEYS,
    **options: Any,
) -> Scores:
    kept = DiskScoreCache(Store(folder), keys, settings)
    opened = options.pop("opened", None)
    return score_layers(source_of(features, opened), recordings, settings, cache=kept, **options)


def same(one: Scores, other: Scores) -> bool:
    """Tell whether all columns are the same to the last bit, with their order and types."""
    if list(one.columns) != list(other.columns) or one.by_fold.tobytes() != other.by_fold.tobytes():
        return False
    for name, values in one.columns.items():
        there = other.columns[name]
        if values.dtype != there.dtype:
            return False
        if values.dtype == object:
            if values.tolist() != there.tolist() or {type(text) for text in there} != {str}:
                return False
        elif values.tobytes() != there.tobytes():
            return False
    return (one.layers, one.areas) == (other.layers, other.areas)


@pytest.mark.parametrize("mapping", list(MAPPINGS))
def test_kept_scores_equal_fresh_ones_for_every_mapping(
    mapping: str, features: dict[str, Any], recordings: list[Any], tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"mapping": mapping})
    fresh = score_features(features, recordings, settings)
    opened: list[tuple[str, ...]] = []
    assert same(scored(features, recordings, tmp_path, settings, opened=opened), fresh)
    assert same(scored(features, recordings, tmp_path, settings, opened=opened), fresh)
    assert opened == [("a", "bb", "ccc")], "the second time, nothing is opened"
    min(path for path in (tmp_path / KIND).rglob("*") if path.is_file()).unlink()
    assert same(scored(features, recordings, tmp_path, settings, opened=opened), fresh)
    assert len(opened) == 2
    assert len(opened[1]) == 1
    pooled = settings.model_copy(update={"population": "pooled"})
    first, again = (scored(features, recordings, tmp_path, pooled) for _ in range(2))
    assert same(first, again)
    assert same(again, score_features(features, recordings, pooled))


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ({"layer_choice": "held-out", "n_resamples": 100, "confidence": 0.9, "resampling_seed": 4}, True),
        ({"ceiling": "holdout", "source_units": "equal", "n_subsamples": 3}, True),
        ({"n_components": 4}, False),
        ({"halves_seed": 1}, False),
        ({"correction": "none"}, False),
        ({"parity": True}, False),
    ],
)
def test_only_settings_that_change_numbers_count(
    change: dict[str, Any],
    is_kept: bool,
    features: dict[str, Any],
    recordings: list[Any],
    tmp_path: Path,
    done: list[tuple[int, int]],
) -> None:
    scored(features, recordings, tmp_path)
    done.clear()
    changed = SETTINGS.model_copy(update=change)
    found = scored(features, recordings, tmp_path, changed)
    assert sum(layers for layers, _ in done) == (0 if is_kept else 9)
    assert found.settings == changed
    assert same(found, score_features(features, recordings, changed))


def test_a_changed_trial_concerns_its_recording_only(
    features: dict[str, Any], recordings: list[Any], tmp_path: Path, done: list[tuple[int, int]]
) -> None:
    scored(features, recordings, tmp_path)
    done.clear()
    responses = recordings[2].responses.copy()
    responses[5, 7, 0] += 1.0
    changed = [*recordings[:2], replace(recordings[2], responses=responses)]
    counts: list[tuple[int, int]] = []
    found = scored(features, changed, tmp_path, progress=lambda now, total: counts.append((now, total)))
    assert set(done) <= {(3, 5), (2, 5), (1, 5)}
    assert sum(layers for layers, _ in done) == 3
    assert counts[0] == (6, 9), "what is kept is done at once"
    assert counts[-1] == (9, 9)
    assert same(found, score_features(features, changed, SETTINGS))


def test_other_names_and_order_of_units_count(
    features: dict[str, Any], recordings: list[Any], tmp_path: Path, done: list[tuple[int, int]]
) -> None:
    scored(features, recordings, tmp_path)
    done.clear()
    renamed = replace(recordings[0], unit_ids=recordings[0].unit_ids + 1)
    scored(features, [renamed, *recordings[1:]], tmp_path)
    assert sum(layers for layers, _ in done) == 3
    done.clear()
    scored(features, [recordings[2], recordings[0]], tmp_path)
    assert done == [], "the other recordings of a run do not matter"


def test_a_new_layer_is_the_only_one_scored(
    features: dict[str, Any], recordings: list[Any], tmp_path: Path, done: list[tuple[int, int]]
) -> None:
    scored({name: features[name] for name in ("a", "ccc")}, recordings, tmp_path)
    done.clear()
    opened: list[tuple[str, ...]] = []
    found = scored(features, recordings, tmp_path, opened=opened)
    assert opened == [("bb",)]
    assert sum(layers for layers, _ in done) == 3
    assert same(found, score_features(features, recordings, SETTINGS))


def test_other_code_or_another_key_is_a_miss(
    features: dict[str, Any],
    recordings: list[Any],
    tmp_path: Path,
    done: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored(features, recordings, tmp_path)
    done.clear()
    other = {**KEYS, "bb": Key("another key", KEYS["bb"].fingerprint)}
    scored(features, recordings, tmp_path, keys=other)
    assert sum(layers for layers, _ in done) == 3
    done.clear()
    monkeypatch.setattr(kept_module, "sources_digest", lambda: "edited")
    scored(features, recordings, tmp_path)
    assert sum(layers for layers, _ in done) == 9


def test_edited_sources_have_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scoring").mkdir()
    (tmp_path / "rng.py").write_text("a = 1\n")
    (tmp_path / "scoring" / "pls.py").write_text("b = 1\n")
    monkeypatch.setattr("mvkit.machine.__file__", str(tmp_path / "machine.py"))
    before = kept_module.sources_digest()
    assert before == kept_module.sources_digest()
    (tmp_path / "scoring" / "pls.py").write_text("b = 2\n")
    assert kept_module.sources_digest() != before


def test_scores_of_another_fingerprint_are_not_believed(
    features: dict[str, Any],
    recordings: list[Any],
    tmp_path: Path,
    done: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scored(features, recordings, tmp_path)
    done.clear()
    rounded = {**KEYS, "bb": Key("key of bb", KEYS["bb"].fingerprint * (1 + 1e-7))}
    scored(features, recordings, tmp_path, keys=rounded)
    assert done == []
    other = {**KEYS, "bb": Key("key of bb", KEYS["bb"].fingerprint * 1.01)}
    with caplog.at_level(logging.WARNING):
        scored(features, recordings, tmp_path, keys=other)
    assert sum(layers for layers, _ in done) == 3
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and warnings[0].startswith("layer 'bb': the first images give other features")


def test_damaged_entries_are_measured_again(
    features: dict[str, Any],
    recordings: list[Any],
    tmp_path: Path,
    done: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fresh = scored(features, recordings, tmp_path)
    store = Store(tmp_path)
    kept = DiskScoreCache(store, KEYS, SETTINGS)
    cut, incomplete = kept.key("a", recordings[0]), kept.key("bb", recordings[1])
    path = store.path(KIND, cut)
    path.write_bytes(path.read_bytes()[:-40])
    entry = store.read(KIND, incomplete)
    assert entry is not None
    arrays = {name: values for name, values in entry.arrays.items() if name != "column:score"}
    store.write(KIND, incomplete, arrays, entry.about)
    done.clear()
    with caplog.at_level(logging.WARNING):
        assert same(scored(features, recordings, tmp_path), fresh)
    assert sum(layers for layers, _ in done) == 2
    assert "column:score" in caplog.text
    done.clear()
    assert same(scored(features, recordings, tmp_path), fresh)
    assert done == []


def test_the_worker_count_changes_nothing(
    features: dict[str, Any], recordings: list[Any], tmp_path: Path
) -> None:
    scored({"bb": features["bb"]}, recordings[1:], tmp_path)
    found = scored(features, recordings, tmp_path, n_jobs=2)
    assert same(found, score_features(features, recordings, SETTINGS))
    assert same(scored(features, recordings, tmp_path), found)
