"""A run on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from mvkit.errors import UsageError
from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun, run_document, save_run, written_lines
from mvkit.report.columns import TABLES, columns_markdown
from mvkit.report.figures import check_figure
from mvkit.report.schema import score_schema
from mvkit.report.text import Table2Comparison
from mvkit.scoring import Scores, pool_networks, read_scores
from mvkit.scoring.comparison import compare_models, fraction_of_ceiling

VALUES = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


def test_all_models_share_the_tables(tmp_path: Path, scores_of: Callable[..., Scores]) -> None:
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
    assert not (tmp_path / "one" / "ceiling" / "best_layers.csv").exists(), (
        "a ceiling has no choice of layers"
    )
    assert pd.read_csv(tmp_path / "one" / "fractions.csv")["fraction"].tolist() == [0.3]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text(encoding="utf-8"))
    assert summary["models"][0]["table2"] == table2.to_json()
    models = {"net": scores, "runs/x": other}
    comparison = compare_models(models)
    files = save_run(ScoreRun(models, {}, comparison=comparison), tmp_path / "two")
    table = pd.read_csv(tmp_path / "two" / "scores.csv")
    assert table.groupby("model", sort=False)["score"].median().to_dict() == pytest.approx(
        {"net": 0.25, "runs/x": 0.35}
    )
    for name, expected in models.items():
        found = read_scores(tmp_path / "two" / name)
        np.testing.assert_array_equal(found.columns["score"], expected.columns["score"])
    document = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert document["models"] == ["net", "runs/x"]
    table = pd.read_csv(tmp_path / "two" / "comparison.csv")
    np.testing.assert_allclose(table["difference"], -0.1, atol=1e-12)
    assert written_lines(files) == [f"wrote {tmp_path / 'two'}: {', '.join(file.name for file in files)}"]
    assert written_lines([Path("scores.svg")]) == ["wrote scores.svg"]
    assert written_lines([Path("../figs/a.png")]) == ["wrote ../figs/a.png"]
    assert written_lines([Path("a.svg"), Path("b.svg")]) == ["wrote a.svg, b.svg"]


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
    for name in ("scores.csv", "summary.csv", "best_layers.csv"):
        table = pd.read_csv(tmp_path / name)
        keys = table[["model", "weights", "dataset"]].drop_duplicates().to_numpy().tolist()
        assert keys == [
            ["net (random, seed 0)", "random, seed 0", "toy"],
            ["other", "https://nowhere", "toy"],
        ], name
    assert (
        pd.read_parquet(tmp_path / "scores.parquet").columns.tolist()
        == pd.read_csv(tmp_path / "scores.csv").columns.tolist()
    )
    assert set(read_scores(tmp_path / "net_random_seed_0").columns) == set(scores.columns)
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


def test_every_column_is_described(tmp_path: Path, scores_of: Callable[..., Scores]) -> None:
    by_fold = {key: [row, row] for key, row in VALUES.items()}
    context = {"dataset": "toy", "weights_source": "here"}
    models = {
        name: scores_of(VALUES, {**context, "model": name}, by_fold=by_fold, n_splits=2)
        for name in ("a", "b")
    }
    pooled = pool_networks(models, "both")
    ceiling = scores_of({("holdout", "VISp"): [0.8, 0.8, 0.9, 0.9]}, context, by_fold=by_fold_of_ceiling())
    ceiling = dataclasses.replace(
        ceiling, columns={**ceiling.columns, "n_sources": np.ones(4), "n_source_units": np.ones(4)}
    )
    fractions = {"both": fraction_of_ceiling(pooled, dataclasses.replace(ceiling, settings=pooled.settings))}
    compared = {"both": pooled, **models}
    run = ScoreRun(
        {"both": pooled},
        {},
        ceiling=ceiling,
        fractions=fractions,
        earlier=models,
        comparison=compare_models(compared),
    )
    for file in save_run(run, tmp_path):
        if file.suffix in (".csv", ".parquet"):
            table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
            described = [column.name for column in TABLES[file.relative_to(tmp_path).as_posix()]]
            # The scores of these tests have no uncorrected parts, and are corrected for noise.
            left_out = {"map_correlation", "response_correlation", "explainable_variance"}
            assert table.columns.tolist() == [
                name for name in described if name not in left_out or name in table
            ]
    text = columns_markdown()
    assert "### `scores.csv`, `scores.parquet`" in text
    assert "| `specimen` | number | Animal. |" in text
    assert all(column.meaning.endswith(".") for columns in TABLES.values() for column in columns)


def by_fold_of_ceiling() -> dict[tuple[str, str], list[list[float]]]:
    return {("holdout", "VISp"): [[0.8, 0.8, 0.9, 0.9]] * 2}


def test_documents_follow_the_schema(tmp_path: Path, scores_of: Callable[..., Scores]) -> None:
    schema = score_schema()
    published = Path(__file__).parents[3] / "docs" / "reference" / "score.schema.json"
    assert json.loads(published.read_text()) == schema, (
        "write it anew from mvkit.report.schema.score_schema()"
    )
    models = {name: scores_of(VALUES, {"dataset": "toy", "model": name}) for name in ("a", "b")}
    ceiling = scores_of({("holdout", "VISp"): [0.8, 0.8, 0.9, 0.9]}, {"dataset": "toy"})
    runs = (
        ScoreRun({"a": models["a"]}, {}),
        ScoreRun(
            models,
            {"a": Table2Comparison("a", "calcium", 0.3, 0.4)},
            ceiling=ceiling,
            comparison=compare_models(models),
            notes=("a note",),
        ),
    )
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for index, run in enumerate(runs):
        save_run(run, tmp_path / str(index))
        for document in (run_document(run), json.loads((tmp_path / str(index) / "summary.json").read_text())):
            assert [error.message for error in validator.iter_errors(document)] == []
    broken = {**run_document(runs[0]), "schema_version": 2}
    assert list(validator.iter_errors(broken))
