"""Everything that a run prints, for scores whose medians are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from mvkit.report import ScoreRun, run_document, run_page
from mvkit.report.text import Table2Comparison
from mvkit.scoring import Scores
from mvkit.scoring.comparison import compare_models

ScoresOf = Callable[..., Scores]
AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")
#: The even split prefers conv1, the odd one conv2; over both conv2 is ahead.
SPLITS = {
    "conv1": [[0.50, 0.52, 0.54, 0.56], [0.10, 0.12, 0.14, 0.16]],
    "conv2": [[0.20, 0.22, 0.24, 0.26], [0.60, 0.62, 0.64, 0.66]],
}


def two_layers(scores_of: ScoresOf, *, shift: float = 0.0, areas: tuple[str, ...] = ("VISp",)) -> Scores:
    by_fold = {
        (layer, area): (np.array(rows) + shift).tolist() for layer, rows in SPLITS.items() for area in areas
    }
    means = {key: np.mean(rows, axis=0).tolist() for key, rows in by_fold.items()}
    return scores_of(means, {"model": "net", "dataset": "toy"}, by_fold=by_fold, n_splits=2)


def printed(run: ScoreRun, *, width: int = 140) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for part in run_page(run, width=width):
        if isinstance(part, str):
            stream.write(part + "\n")
        else:
            console.print(part)
    return stream.getvalue().splitlines()


def block(lines: list[str], start: str) -> list[str]:
    """The lines of the table under a title."""
    begin = next(index for index, line in enumerate(lines) if line.startswith(start)) + 1
    end = next(index for index in range(begin, len(lines)) if not lines[index].strip())
    return lines[begin:end]


def test_each_choice_of_layers_has_a_table_of_its_own(scores_of: ScoresOf) -> None:
    lines = printed(ScoreRun({"net": two_layers(scores_of)}, {"net": None}))
    paper = next(
        line for line in block(lines, "best layer, chosen on the test images (paper)") if "VISp" in line
    )
    held = next(line for line in block(lines, "best layer, held-out:") if "VISp" in line)
    # conv2 has the higher median over both splits: (0.23 + 0.63) / 2.
    assert paper.split()[1:3] == ["conv2", "0.430"]
    # conv1, chosen on the even split, scores 0.13 on the odd one; conv2 the other way round 0.23.
    assert held.split()[1:5] == ["conv1", "/", "conv2", "0.180"]
    assert paper.rstrip().endswith("4 (2)")


def test_the_headline_is_that_of_the_choice(scores_of: ScoresOf) -> None:
    scores = two_layers(scores_of)
    changed = scores.settings.model_copy(update={"layer_choice": "held-out"})
    held = Scores(scores.columns, scores.layers, scores.areas, changed, scores.context, scores.by_fold)
    for chosen, words, value in (
        (scores, "chosen on the test images (paper)", 0.43),
        (held, "held-out", 0.18),
    ):
        lines = printed(ScoreRun({"net": chosen}, {"net": None}))
        assert any(
            line.startswith(f"all areas, each with its best layer, {words}: median {value:.3f} [")
            for line in lines
        )
    titles = [line for line in lines if line.startswith("best layer,")]
    assert titles[0].startswith("best layer, held-out"), "the headline's choice comes first"


def test_one_layer_is_no_choice_and_one_split_allows_none(scores_of: ScoresOf) -> None:
    only = printed(ScoreRun({"net": scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})}, {}))
    assert sum(line.startswith("the only layer") for line in only) == 1
    assert not any(line.startswith("best layer") for line in only)
    two = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4], ("b", "VISp"): [0.3, 0.4, 0.5, 0.6]})
    lines = printed(ScoreRun({"net": two}, {}))
    assert "no best layers held-out: held-out choice needs two splits" in lines


def test_a_missing_interval_says_why(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, math.nan, math.nan], ("a", "VISl"): [0.1, 0.2, 0.3, 0.4]})
    lines = printed(ScoreRun({"net": scores}, {}))
    assert any(line.startswith("no interval for VISp: one animal only") for line in lines)


def test_populations_are_counted_as_animals(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}, mapping="rsa", populations=True)
    lines = printed(ScoreRun({"net": scores}, {}))
    assert lines[0].startswith(
        "features on recordings: 4 populations (the units of an animal in an area), 4 animals"
    )
    assert not any(line.startswith("units ") for line in lines)
    row = next(line for line in block(lines, "the only layer") if line.startswith("VISp"))
    assert row.split()[-1] == "4"


def test_pooled_populations_are_not_called_animals(scores_of: ScoresOf) -> None:
    scores = scores_of(
        {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}, mapping="rsa", population="pooled", populations=True
    )
    text = "\n".join(printed(ScoreRun({"net": scores}, {})))
    assert "all areas, one layer: median 0.250 [" in text
    assert "pooled populations)" in text
    assert "4 animals" not in text


@pytest.mark.parametrize("width", [80, 140])
def test_tables_fit_the_terminal(width: int, scores_of: ScoresOf) -> None:
    nets = {
        "dual_stream_encoder": two_layers(scores_of, areas=AREAS),
        "runs/a_long_name/best.pt": two_layers(scores_of, shift=-0.3, areas=AREAS),
    }
    ceiling = scores_of(
        {("holdout", area): [0.8, 0.82, 0.84, 0.86] for area in AREAS}, {"dataset": "toy"}, n_splits=2
    )
    run = ScoreRun(nets, {}, ceiling=ceiling, comparison=compare_models(nets))
    parts = list(run_page(run, width=width))
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for part in parts:
        if not isinstance(part, str):
            console.print(part)
    lines = stream.getvalue().splitlines()
    assert "…" not in stream.getvalue()
    assert max(len(line) for line in lines) <= width
    for area in (*AREAS, "all areas"):
        assert any(line.startswith(area) and "(" in line for line in lines)
    assert sum(line.startswith("ceiling") for line in lines) == 3, "with each model and in the overview"


def test_a_comparison_gives_a_verdict(scores_of: ScoresOf) -> None:
    near, far = two_layers(scores_of), two_layers(scores_of, shift=-0.3)
    values = {("conv1", "VISp"): [0.44, 0.42, 0.43, 0.41], ("conv2", "VISp"): [0.2, 0.2, 0.2, 0.2]}
    splits = {key: [row, row] for key, row in values.items()}
    like = scores_of(values, dict(near.context), by_fold=splits, n_splits=2)
    models = {"near": near, "far": far, "like": like}
    lines = printed(ScoreRun(models, {}, comparison=compare_models(models)))
    first = block(lines, "near minus far; best layers chosen on the test images (paper)")
    assert next(line for line in first if line.startswith("VISp")).rstrip().endswith("near is higher")
    second = block(lines, "near minus like")
    assert (
        next(line for line in second if line.startswith("VISp"))
        .rstrip()
        .endswith("not resolved by these data")
    )
    overview = block(lines, "medians; best layers chosen on the test images (paper)")
    assert [line.split()[:2] for line in overview[1:]] == [
        ["near", "0.430"],
        ["far", "0.130"],
        ["like", "0.425"],
    ]


def test_the_document_of_one_model_keeps_its_keys(scores_of: ScoresOf) -> None:
    scores = two_layers(scores_of)
    quoted = Table2Comparison("net", "calcium", 0.316, 0.43)
    one = run_document(ScoreRun({"net": scores}, {"net": quoted}))
    assert {"settings", "context", "summary", "best_layers", "table2", "files", "digest", "protocol"} <= set(
        one
    )
    assert one["table2"] == {
        "row": "net",
        "dataset": "calcium",
        "value": 0.316,
        "here": 0.43,
        "comparable": True,
        "differences": [],
    }
    assert one["summary"] == scores.to_json()["summary"]
    assert "models" not in one
    models = {"net": scores, "other": two_layers(scores_of, shift=0.1)}
    several = run_document(ScoreRun(models, {"net": quoted}, comparison=compare_models(models)))
    assert [model["name"] for model in several["models"]] == ["net", "other"]
    assert [model["table2"] for model in several["models"]] == [one["table2"], None]
    assert several["digest"] == scores.digest()
    assert several["comparison"]["models"] == ["net", "other"]
    assert several["ceiling"] is None
