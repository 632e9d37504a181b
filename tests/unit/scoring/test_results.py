"""Summaries, best layers, and files."""

from __future__ import annotations

import dataclasses
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
from mvkit.scoring.results import read_models, save_models

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
    assert content["schema_version"] == 1
    assert content["protocol"]["n_splits"] == 2 and content["protocol"]["n_components"] == 25
    assert content["context"] == {"seeds": [1, 2]}
    assert content["digest"] == scores.digest()
    assert (content["reporting"]["layer_choice"], content["reporting"]["confidence"]) == ("paper", 0.95)
    assert not set(content["protocol"]) & set(content["reporting"]), "each setting stands in one place"
    assert "hierarchical bootstrap" in content["intervals"]
    (model,) = content["models"]
    assert len(model["summary"]) == 8 and model["summary"][2]["median"] is None
    assert [row["choice"] for row in model["best_layers"]] == ["paper"] * 4 + ["held-out"] * 4
    assert model["best_layers"][0]["layer"] == "early"
    assert model["summary"][1]["low"] is None and model["summary"][1]["reason"] == "1 animal: no interval"


def test_files_hold_everything_and_are_read_back(scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = save_scores(scores, out)
    assert sorted(path.name for path in written) == sorted(path.name for path in out.iterdir())
    again = read_scores(out)
    pd.testing.assert_frame_equal(again.table(), scores.table())
    pd.testing.assert_frame_equal(again.summary(), scores.summary())
    assert (again.layers, again.areas, again.settings) == (scores.layers, scores.areas, scores.settings)
    assert again.digest() == scores.digest()
    csv = pd.read_csv(out / "scores.csv")
    np.testing.assert_array_equal(csv["score"], scores.columns["score"])
    np.testing.assert_array_equal(csv["score_even_splits"], scores.by_fold[0])
    best = pd.read_csv(out / "best_layers.csv")
    paper, held_out = (best[best["choice"] == choice] for choice in ("paper", "held-out"))
    assert paper["median"].iloc[-1] == 0.5
    np.testing.assert_array_equal(again.by_fold, scores.by_fold)
    np.testing.assert_allclose(held_out["median"], scores.held_out_layers()["median"], rtol=0, atol=1e-15)
    assert {"low", "high", "reason"} <= set(pd.read_csv(out / "summary.csv").columns)
    summary = json.loads((out / "summary.json").read_text())
    assert "summary" not in summary["models"][0], "tables are in the CSV files"


def test_several_models_share_their_files(scores: Scores, tmp_path: Path) -> None:
    other = dataclasses.replace(
        scores, columns={**scores.columns, "score": scores.columns["score"] / 2}, context={"seeds": (1, 2)}
    )
    models = {"net": scores, "runs/a (random, seed 0)": other}
    save_models(models, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table["model"].drop_duplicates().tolist() == list(models)
    assert len(table) == 2 * len(ROWS)
    again = read_models(tmp_path / "out")
    assert list(again) == list(models)
    for name, expected in models.items():
        np.testing.assert_array_equal(again[name].columns["score"], expected.columns["score"])
        assert again[name].digest() == expected.digest()
    with pytest.raises(DataError, match=r"holds 2 models: net, runs/a .*\n.*name one: .*out/net"):
        read_scores(tmp_path / "out")
    # By the name as it is, and as it can be typed.
    for name in ("runs/a (random, seed 0)", "runs_a_random_seed_0"):
        one = read_scores(tmp_path / "out" / name)
        np.testing.assert_array_equal(one.columns["score"], other.columns["score"])
    with pytest.raises(DataError, match=r"out has no model 'nat'; it has: net, runs/a"):
        read_scores(tmp_path / "out" / "nat")


def test_intervals_are_those_of_the_units_and_made_once(scores: Scores) -> None:
    summary = scores.summary().set_index(["layer", "area"])
    units = np.array([0.2, 0.1, 0.3, 0.6, 0.8])
    animals, areas = np.array([1, 1, 2, 2, 3]), np.array([0, 0, 0, 1, 1])
    expected = median_interval(units, animals, scores.settings, areas=areas)
    row = summary.loc[("late", "all")]
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert row["reason"] == ""
    # What a caller does to a table is no change to the scores.
    changed = scores.summary()
    changed["low"] = 7.0
    pd.testing.assert_frame_equal(scores.summary().set_index(["layer", "area"]), summary)


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
    nobody = {"model": ["other"], "weights": [""], "dataset": [""], "score": [0.5]}
    pd.DataFrame(nobody).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(DataError, match=r"damaged scores \(scores\.parquet has changed since"):
        read_scores(tmp_path)
    save_scores(scores, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "schema_version": 99}))
    with pytest.raises(DataError, match=r"version 99 of summary\.json, and this mvkit reads 1"):
        read_scores(tmp_path)


def test_folders_of_any_name(scores: Scores, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9[1]*")
    save_scores(scores, folder)
    again = read_scores(folder)
    np.testing.assert_array_equal(again.columns["score"], scores.columns["score"])
    np.testing.assert_array_equal(again.by_fold, scores.by_fold)
