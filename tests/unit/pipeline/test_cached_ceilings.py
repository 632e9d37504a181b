"""Ceilings on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvkit.pipeline.cached as cache_module
from mvkit.pipeline.cached import cached_ceiling, ceiling_key
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import ScoreSettings

SETTINGS = ScoreSettings(mapping="ridge", ceiling="holdout", n_splits=2, n_halves=2, n_resamples=100)


@pytest.fixture
def recordings(animals: Callable[..., list[Any]], recording: Callable[..., Any]) -> list[Any]:
    return [recording(values, specimen=number) for number, values in enumerate(animals((4, 5, 6)))]


@pytest.fixture
def place(recordings: list[Any], tmp_path: Path) -> Path:
    """Where the ceiling of these recordings belongs."""
    return tmp_path / ceiling_key(recordings_digest(recordings), SETTINGS)


def assert_same(one: Scores, other: Scores) -> None:
    assert sorted(one.columns) == sorted(other.columns)
    for name, values in one.columns.items():
        np.testing.assert_array_equal(values, other.columns[name], err_msg=name)
        assert values.dtype == other.columns[name].dtype, name
    np.testing.assert_array_equal(one.by_fold, other.by_fold)
    assert (one.layers, one.areas, one.settings) == (other.layers, other.areas, other.settings)
    assert one.digest() == other.digest()


def test_what_was_measured_is_read_back(recordings: list[Any], tmp_path: Path, place: Path) -> None:
    context = {"dataset": "simulated"}
    measured, was_cached = cached_ceiling(recordings, SETTINGS, tmp_path, context=context)
    assert not was_cached
    assert list(tmp_path.iterdir()) == [place]
    read, was_cached = cached_ceiling(recordings, SETTINGS, tmp_path, context=context)
    assert was_cached
    assert_same(read, measured)
    assert read.context == measured.context


def test_only_what_changes_the_numbers_is_measured_anew(recordings: list[Any], tmp_path: Path) -> None:
    cached_ceiling(recordings, SETTINGS, tmp_path)
    shown = SETTINGS.model_copy(update={"layer_choice": "held-out", "n_resamples": 200})
    read, was_cached = cached_ceiling(recordings, shown, tmp_path)
    assert was_cached
    assert read.settings == shown
    for change in ({"n_halves": 3}, {"ceiling": "pairwise"}, {"source_units": "equal"}, {"ridge_alpha": 2.0}):
        assert not cached_ceiling(recordings, SETTINGS.model_copy(update=change), tmp_path)[1], change
    assert not cached_ceiling(recordings[:2], SETTINGS, tmp_path)[1]
    changed = recordings[0].responses.copy()
    changed[0, 0, 0] += 1
    other = type(recordings[0])("VISp", 0, recordings[0].unit_ids, changed)
    assert not cached_ceiling([other, *recordings[1:]], SETTINGS, tmp_path)[1]


def test_an_edition_makes_old_ceilings_unknown(
    recordings: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_ceiling(recordings, SETTINGS, tmp_path)
    monkeypatch.setattr(cache_module, "EDITION", cache_module.EDITION + 1)
    assert not cached_ceiling(recordings, SETTINGS, tmp_path)[1]


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a changed byte of the scores": lambda place: _flip(place / "scores.parquet"),
    "a changed byte of a table": lambda place: _flip(place / "summary.csv"),
    "a truncated summary": lambda place: (place / "summary.json").write_text("{"),
    "a missing file": lambda place: (place / "scores.parquet").unlink(),
    "no checksums": lambda place: (place / "checksums.json").unlink(),
    "checksums of another kind": lambda place: (place / "checksums.json").write_text("[1]"),
    "a file in its place": lambda place: (
        place.rename(place.with_name("elsewhere")),
        place.write_text("not a folder"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ceiling_is_measured_anew_and_replaced(
    recordings: list[Any], tmp_path: Path, place: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    measured, _ = cached_ceiling(recordings, SETTINGS, tmp_path)
    DAMAGE[damage](place)
    with caplog.at_level(logging.WARNING):
        again, was_cached = cached_ceiling(recordings, SETTINGS, tmp_path)
    assert not was_cached
    (record,) = caplog.records
    assert "damaged, the ceiling is measured anew" in record.getMessage()
    assert_same(again, measured)
    read, was_cached = cached_ceiling(recordings, SETTINGS, tmp_path)
    assert was_cached
    assert_same(read, measured)
    assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name]


def test_an_unusable_folder_costs_a_warning_only(
    recordings: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        measured, was_cached = cached_ceiling(recordings, SETTINGS, blocked)
    assert not was_cached
    assert np.isfinite(measured.columns["score"]).any()
    assert [record for record in caplog.records if "could not be cached" in record.getMessage()]


def test_several_at_once_leave_one_whole_ceiling(recordings: list[Any], tmp_path: Path, place: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [
            future.result()[0]
            for future in [pool.submit(cached_ceiling, recordings, SETTINGS, tmp_path) for _ in range(4)]
        ]
    assert list(tmp_path.iterdir()) == [place]
    read, was_cached = cached_ceiling(recordings, SETTINGS, tmp_path)
    assert was_cached
    for one in found:
        assert_same(read, one)


def test_a_ceiling_that_is_read_counts_as_used(recordings: list[Any], tmp_path: Path, place: Path) -> None:
    cached_ceiling(recordings, SETTINGS, tmp_path)
    os.utime(place, (1000.0, 1000.0))
    cached_ceiling(recordings, SETTINGS, tmp_path)
    assert place.stat().st_mtime > 1000.0
