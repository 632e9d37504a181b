"""Summaries, best layers, and files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvkit.errors import DataError
from mvkit.scoring import Scores, ScoreSettings, read_scores, save_scores
from mvkit.scoring.intervals import median_interval

NAN = float("nan")
ROWS = [
    # layer, area, specimen, score
    ("early", "VISp", 1, 0.5),
    ("early", "VISp", 1, 0.3),
    ("early", "VISp", 2, 0.4),
    ("early", "VISl", 2, 0.1),
    ("early", "VISl", 3, NAN),
    ("early", "VISam", 3, NAN),
    ("late", "VISp", 1, 0.2),
    ("late", "VISp", 1, 0.1),
    ("late", "VISp", 2, 0.3),
    ("late", "VISl", 2, 0.6),
    ("late", "VISl", 3, 0.8),
    ("late", "VISam", 3, NAN),
]


@pytest.fixture
def scores() -> Scores:
    layer, area, specimen, score = zip(*ROWS, strict=True)
    values = np.array(score)
    columns: dict[str, Any] = {
        "layer": np.array(layer, dtype=object),
        "area": np.array(area, dtype=object),
        "specimen": np.array(specimen),
        "unit_id": np.tile(np.arange(6), 2),
        "score": values,
        "halves_used": np.where(np.isnan(values), 0, 4),
        "reason": np.where(np.isnan(values), "constant response", "").astype(object),
    }
    by_fold = np.stack([values + 0.125, values - 0.125])
    settings = ScoreSettings(n_splits=2)
    return Scores(columns, ("early", "late"), ("VISp", "VISl", "VISam"), settings, {"seeds": (1, 2)}, by_fold)


def test_summary_statistics(scores: Scores) -> None:
    summary = scores.summary().set_index(["layer", "area"])
    assert list(summary.loc["early"].index) == ["VISp", "VISl", "VISam", "all"]
    row = summary.loc[("early", "VISp")]
    assert row["median"] == 0.4
    assert row["sem"] == pytest.approx(0.1 / np.sqrt(3))
    assert (row["n_units"], row["n_animals"], row["n_nan"]) == (3, 2, 0)
    one = summary.loc[("early", "VISl")]
    assert (one["median"], one["n_units"], one["n_animals"], one["n_nan"]) == (0.1, 1, 1, 1)
    assert np.isnan(one["sem"])
    none = summary.loc[("late", "VISam")]
    assert np.isnan(none["median"]) and (none["n_units"], none["n_nan"]) == (0, 1)
    everything = summary.loc[("late", "all")]
    assert everything["median"] == 0.3
    assert (everything["n_units"], everything["n_animals"], everything["n_nan"]) == (5, 3, 1)


def test_best_layer_per_area_and_pooled(scores: Scores) -> None:
    best = scores.best_layers().set_index("area")
    assert best["layer"].tolist() == ["early", "late", "", "(best layer of each area)"]
    assert best.loc["VISp", "median"] == 0.4 and best.loc["VISl", "median"] == 0.7
    assert np.isnan(best.loc["VISam", "median"])
    # 0.5, 0.3, 0.4 from "early" and 0.6, 0.8 from "late"
    assert best.loc["all", "median"] == 0.5
    assert (best.loc["all", "n_units"], best.loc["all", "n_animals"]) == (5, 3)


def test_equal_medians_go_to_the_earlier_layer(scores: Scores) -> None:
    columns = {**scores.columns, "score": np.full(len(ROWS), 0.25)}
    same = Scores(columns, scores.layers, scores.areas, scores.settings, {})
    assert same.best_layers()["layer"].tolist()[:3] == ["early"] * 3


def test_json_is_plain_and_complete(scores: Scores) -> None:
    content = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert content["settings"]["n_splits"] == 2 and content["settings"]["n_components"] == 25
    assert content["context"] == {"seeds": [1, 2]}
    assert len(content["summary"]) == 8 and content["summary"][2]["median"] is None
    assert content["best_layers"][0]["layer"] == "early" and content["best_layers"][0]["choice"] == "paper"
    assert content["held_out_layers"][0]["choice"] == "held-out" and content["layer_choice"] == "paper"
    assert content["digest"] == scores.digest() and content["protocol"]["n_splits"] == 2
    assert "hierarchical bootstrap" in content["intervals"]["method"]
    assert (content["intervals"]["confidence"], content["intervals"]["n_resamples"]) == (0.95, 2000)
    assert content["summary"][1]["low"] is None and "one animal only" in content["summary"][1]["reason"]


def test_files_hold_everything_and_are_read_back(scores: Scores, tmp_path: Path) -> None:
    written = save_scores(scores, tmp_path / "out")
    assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / "out").iterdir())
    again = read_scores(tmp_path / "out")
    pd.testing.assert_frame_equal(again.table(), scores.table())
    pd.testing.assert_frame_equal(again.summary(), scores.summary())
    assert (again.layers, again.areas, again.settings) == (scores.layers, scores.areas, scores.settings)
    csv = pd.read_csv(tmp_path / "out" / "scores.csv")
    np.testing.assert_array_equal(csv["score"], scores.columns["score"])
    best = pd.read_csv(tmp_path / "out" / "best_layers.csv")
    assert best["median"].iloc[-1] == 0.5 and set(best["choice"]) == {"paper"}
    np.testing.assert_array_equal(again.by_fold, scores.by_fold)
    held_out = pd.read_csv(tmp_path / "out" / "held_out_layers.csv")
    np.testing.assert_allclose(held_out["median"], scores.held_out_layers()["median"], rtol=0, atol=1e-15)
    assert set(held_out["choice"]) == {"held-out"}
    assert {"low", "high", "reason"} <= set(pd.read_csv(tmp_path / "out" / "summary.csv").columns)


def test_intervals_are_those_of_the_units_and_made_once(scores: Scores) -> None:
    summary = scores.summary().set_index(["layer", "area"])
    units = np.array([0.5, 0.3, 0.4])
    expected = median_interval(units, np.array([1, 1, 2]), scores.settings)
    row = summary.loc[("early", "VISp")]
    assert (row["low"], row["high"], row["reason"]) == (expected.low, expected.high, "")
    pooled = median_interval(
        np.append(units, 0.1), np.array([1, 1, 2, 2]), scores.settings, areas=np.array([0, 0, 0, 1])
    )
    assert summary.loc[("early", "all"), "low"] == pytest.approx(pooled.low, abs=1e-12)
    # What a caller does to a table is no change to the scores.
    changed = scores.summary()
    changed["low"] = 7.0
    pd.testing.assert_frame_equal(scores.summary().set_index(["layer", "area"]), summary)


def test_a_folder_without_scores_by_fold_is_refused(scores: Scores, tmp_path: Path) -> None:
    save_scores(scores, tmp_path)
    (tmp_path / "folds.parquet").unlink()
    with pytest.raises(DataError, match=r"no folds\.parquet here"):
        read_scores(tmp_path)


def test_saving_again_replaces(scores: Scores, tmp_path: Path) -> None:
    save_scores(scores, tmp_path)
    other = Scores(scores.columns, scores.layers, scores.areas, ScoreSettings(n_splits=3), {})
    save_scores(other, tmp_path)
    assert read_scores(tmp_path).settings.n_splits == 3
    assert not list(tmp_path.glob("*.tmp-*"))


def test_missing_and_damaged_folders_are_named(scores: Scores, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no summary\.json here"):
        read_scores(tmp_path)
    save_scores(scores, tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match="damaged scores"):
        read_scores(tmp_path)
    save_scores(scores, tmp_path)
    pd.DataFrame({"fold_0": [0.5]}).to_parquet(tmp_path / "folds.parquet")
    with pytest.raises(DataError, match=r"scores\.parquet has 12 rows, folds\.parquet 1"):
        read_scores(tmp_path)


def test_folders_of_any_name(scores: Scores, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9[1]*")
    save_scores(scores, folder)
    again = read_scores(folder)
    np.testing.assert_array_equal(again.columns["score"], scores.columns["score"])
    np.testing.assert_array_equal(again.by_fold, scores.by_fold)
