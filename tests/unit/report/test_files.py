"""A run on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvkit.errors import UsageError
from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun, run_document, save_run, written_lines
from mvkit.report.figures import check_figure
from mvkit.report.text import Table2Comparison
from mvkit.scoring import Scores, read_scores
from mvkit.scoring.comparison import compare_models

VALUES = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


def test_one_model_lies_in_the_folder_itself_and_several_in_their_own(
    tmp_path: Path, scores_of: Callable[..., Scores]
) -> None:
    scores = scores_of(VALUES, {"dataset": "toy"})
    other = scores_of(
        {key: [value + 0.1 for value in row] for key, row in VALUES.items()}, {"dataset": "toy"}
    )
    ceiling = scores_of({("holdout", "VISp"): [0.8, 0.8, 0.9, 0.9]}, {"dataset": "toy"})
    fractions = pd.DataFrame({"area": ["VISp"], "choice": ["paper"], "fraction": [0.3]})
    table2 = Table2Comparison("net", "neuropixels", 0.413, 0.25)
    files = save_run(
        ScoreRun({"net": scores}, {"net": table2}, ceiling=ceiling, fractions={"net": fractions}),
        tmp_path / "one",
    )
    assert all(file.is_file() for file in files)
    np.testing.assert_array_equal(read_scores(tmp_path / "one").columns["score"], scores.columns["score"])
    np.testing.assert_array_equal(
        read_scores(tmp_path / "one" / "ceiling").columns["score"], ceiling.columns["score"]
    )
    assert pd.read_csv(tmp_path / "one" / "fractions.csv")["fraction"].tolist() == [0.3]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text(encoding="utf-8"))
    assert summary["table2"] == table2.to_json()
    models = {"net": scores, "runs/x": other}
    comparison = compare_models(models)
    files = save_run(ScoreRun(models, {}, comparison=comparison), tmp_path / "two")
    for folder, expected in (("net", scores), ("runs_x", other)):
        found = read_scores(tmp_path / "two" / folder)
        np.testing.assert_array_equal(found.columns["score"], expected.columns["score"])
    document = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert document["models"] == ["net", "runs/x"]
    table = pd.read_csv(tmp_path / "two" / "comparison.csv")
    np.testing.assert_allclose(table["difference"], -0.1, atol=1e-12)
    lines = written_lines(files)
    assert len(lines) == 3 and lines[-1] == f"wrote {tmp_path / 'two'}: comparison.csv, comparison.json"


def test_every_table_names_model_weights_and_dataset(
    tmp_path: Path, scores_of: Callable[..., Scores]
) -> None:
    random = {"model": "net (random, seed 0)", "weights_source": "random, seed 0", "dataset": "toy"}
    scores = scores_of(VALUES, random)
    other = scores_of(VALUES, {"model": "other", "weights_source": "https://nowhere", "dataset": "toy"})
    models = {"net (random, seed 0)": scores, "other": other}
    outcome = SelectionOutcome(
        unit_ids=np.array([7, 8]),
        specimens=np.array([1, 2]),
        areas=np.array(["VISp", "VISp"]),
        reasons=np.array(["", "few_units"]),
        min_units={"VISp": 3},
        settings=SelectionSettings(),
        threshold=0.5,
    )
    run = ScoreRun(models, {}, comparison=compare_models(models), selection=outcome)
    save_run(run, tmp_path)
    folder = tmp_path / "net_random_seed_0"
    tables = [pd.read_csv(path) for path in folder.glob("*.csv")]
    tables += [pd.read_parquet(path) for path in folder.glob("*.parquet")]
    assert len(tables) == 6
    for table in tables:
        if len(table):
            assert table["model"].unique().tolist() == ["net (random, seed 0)"]
            assert table["weights"].unique().tolist() == ["random, seed 0"]
            assert table["dataset"].unique().tolist() == ["toy"]
    assert set(read_scores(folder).columns) == set(scores.columns)
    comparison = pd.read_csv(tmp_path / "comparison.csv")
    assert comparison["first"].unique().tolist() == ["net (random, seed 0)"]
    assert comparison["first_weights"].unique().tolist() == ["random, seed 0"]
    assert comparison["second_weights"].unique().tolist() == ["https://nowhere"]
    units = pd.read_csv(tmp_path / "units.csv", keep_default_na=False)
    assert units.to_dict("list") == {
        "dataset": ["toy", "toy"],
        "area": ["VISp", "VISp"],
        "specimen": [1, 2],
        "unit_id": [7, 8],
        "excluded": ["", "few_units"],
    }
    assert run_document(run)["units"]["excluded"] == {"few_units": {"units": 1, "recordings": 1}}


def test_a_figure_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    check_figure(tmp_path / "figure.SVG")
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.pdf"):
        check_figure(tmp_path / "figure.bmp")
    with pytest.raises(UsageError, match="is a folder"):
        check_figure(tmp_path / "folder.svg")
