"""Everything that a run prints, for scores whose medians are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun, run_document, run_page
from mvkit.report.text import (
    Table2Comparison,
    dropped_line,
    dropped_warning,
    mapping_words,
    protocol_lines,
    result_lines,
    selection_lines,
    title_line,
)
from mvkit.scoring import Scores, ScoreSettings
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


VALUES = {
    ("conv1", "VISp"): [0.1, 0.2, 0.3, 0.4],
    ("conv1", "VISl"): [0.5, 0.6, 0.7, math.nan],
    ("conv2", "VISp"): [0.3, 0.4, 0.5, 0.6],
    ("conv2", "VISl"): [0.1, 0.2, 0.3, math.nan],
}
ONE_LAYER = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


def test_the_result_pools_each_areas_best_layer(scores_of: ScoresOf) -> None:
    table2 = Table2Comparison("net", "neuropixels", 0.413, 0.5)
    scores = scores_of(VALUES, {"model": "net", "dataset": "neuropixels"})
    lines = result_lines(scores, table2=table2)
    pooled = [0.5, 0.6, 0.7, 0.3, 0.4, 0.5, 0.6]
    assert f"chosen on the test images (paper): median {np.median(pooled):.3f} [" in lines[0]
    assert "7 units, 2 animals" in lines[0]
    assert lines[1].startswith("the paper's Table 2 has 0.413 for net on neuropixels")
    assert title_line(scores).startswith("net on neuropixels: 8 units, 2 animals")


def test_what_has_no_score_is_counted_with_its_reason(scores_of: ScoresOf) -> None:
    lines = result_lines(scores_of(VALUES, {"skipped_areas": {"VISam": "no specimen passes"}}))
    assert "skipped VISam: no specimen passes" in lines
    assert "without a score: 2 of 16 unit-layer pairs (constant response: 2)" in lines
    assert "halves dropped: 20 of 160 (12.5 %: constant response 20)" in lines


def test_scores_that_cannot_be_correlations_are_pointed_out(scores_of: ScoresOf) -> None:
    scores = scores_of({("conv1", "VISp"): [0.1, 0.2, 0.3, 900.0]})
    lines = result_lines(scores)
    start = "scores beyond ±2: 1 of 4 unit-layer pairs (units: 1)"
    assert any(line.startswith(start) for line in lines)
    assert "median 0.250 [" in lines[0]
    assert not any("beyond" in line for line in result_lines(scores_of(VALUES)))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"dataset": "simulated"}, "the SIMULATED dataset"),
        (
            {"selection": {"name": "paper", "applied": True}},
            "selection paper (not checked against the paper's text)",
        ),
        ({"selection": {"name": "none", "applied": True}}, "selection none"),
        (
            {"selection": {"name": "code", "applied": False, "note": "not applied: why"}},
            "selection code (not applied: why)",
        ),
        ({}, "selection as given"),
    ],
)
def test_dataset_and_selection_are_named(
    scores_of: ScoresOf, context: dict[str, object], expected: str
) -> None:
    assert expected in title_line(scores_of(VALUES, context))


def test_the_papers_protocol_is_called_so(scores_of: ScoresOf) -> None:
    scores = scores_of(ONE_LAYER, n_splits=10, n_halves=100)
    first, second, third = protocol_lines(scores)
    assert first.startswith(f"protocol {scores.digest()[:12]}: PLS (25 components), 10 image splits x 100 ")
    assert "spearman-brown-denominator, mean-of-corrected" in first
    assert second == "settings as in the paper"
    assert third == "seeds: splits 0, halves 0, resampling 0"


def test_what_differs_stands_beside_the_papers_value(scores_of: ScoresOf) -> None:
    chosen = {
        "n_splits": 2,
        "n_halves": 100,
        "correction": "attenuation",
        "split_seed": 5,
        "n_resamples": 100,
    }
    first, second, third = protocol_lines(scores_of(ONE_LAYER, **chosen))
    assert second.endswith(
        ": n_splits 2 (10), correction attenuation (spearman-brown-denominator), split_seed 5 (0)"
    )
    assert "2 image splits" in first
    assert third.startswith("seeds: splits 5,")
    assert "not corrected" in protocol_lines(scores_of(ONE_LAYER, correction="none"))[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mapping": "ridge"}, "ridge (alpha 1)"),
        ({"mapping": "ridge", "ridge_alpha": "cv"}, "ridge (alpha by cross-validation)"),
        ({"mapping": "one-to-one"}, "one-to-one"),
        ({"mapping": "rsa", "rsa_comparison": "cosine"}, "RSA (RDMs compared by cosine)"),
    ],
)
def test_a_mapping_is_named_with_its_own_settings(settings: dict[str, object], expected: str) -> None:
    assert mapping_words(ScoreSettings(**settings)) == expected


def test_a_similarity_of_all_images_has_no_splits(scores_of: ScoresOf) -> None:
    assert ", all images, 10 trial halves" in protocol_lines(scores_of(ONE_LAYER, mapping="rsa"))[0]
    of_test_images = scores_of(ONE_LAYER, mapping="rsa", similarity_images="test", n_splits=3)
    assert ", 3 image splits x 10 trial halves" in protocol_lines(of_test_images)[0]


def test_dropped_halves_are_counted_by_reason(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, math.nan]})
    assert dropped_line(scores) == "halves dropped: 10 of 40 (25.0 %: constant response 10)"
    columns = dict(scores.columns)
    columns["dropped_negative_map"] = np.array([0, 1, 0, 3])
    columns["dropped_constant_response"] = np.array([0, 0, 0, 6])
    columns["halves_dropped"] = np.array([0, 1, 0, 9])
    several = replace(scores, columns=columns)
    assert dropped_line(several).endswith(": constant response 6, negative map reliability 4)")
    assert dropped_line(scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})) == ""
    corrected = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, math.nan]}, estimator="corrected-mean")
    assert dropped_line(corrected).startswith(
        "halves that alone could not be corrected: 10 of 40 (25.0 %: constant response 10);"
    )


def test_many_dropped_halves_are_warned_of_above_the_table(scores_of: ScoresOf) -> None:
    values = {("a", "VISp"): [0.1, 0.2, 0.3, math.nan]}
    lines = printed(ScoreRun({"net": scores_of(values)}, {}))
    warning = next(index for index, line in enumerate(lines) if line.startswith("warning: 25 %"))
    assert "--recipe honest" in lines[warning]
    assert warning < next(index for index, line in enumerate(lines) if line.startswith("layer"))
    assert dropped_warning(scores_of(values, estimator="corrected-mean")) == ""
    assert dropped_warning(scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})) == ""


def test_a_layer_without_a_map_says_why(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, math.nan, math.nan]})
    reasons = np.array(["", "", "unmapped", "negative_map"], dtype=object)
    detail = np.array(["", "", "the layer does not vary", "image 3 has no valid trial"], dtype=object)
    known = replace(scores, columns={**scores.columns, "reason": reasons, "detail": detail})
    assert (
        "without a score: 2 of 4 unit-layer pairs (the layer does not vary: 1; negative map reliability: 1)"
        in result_lines(known)
    )


def selection(reasons: list[str], areas: list[str]) -> SelectionOutcome:
    return SelectionOutcome(
        unit_ids=np.arange(len(reasons)),
        specimens=np.array([1, 1, 2, 2, 3, 3]),
        areas=np.array(areas),
        reasons=np.array(reasons),
        min_units={"VISp": 86, "VISl": 7},
        settings=SelectionSettings(),
        threshold=0.5,
    )


def test_excluded_units_are_counted_with_their_reasons() -> None:
    reasons = ["", "reliability", "few_units", "few_units", "few_units", "reliability"]
    outcome = selection(reasons, ["VISp", "VISp", "VISp", "VISp", "VISl", "VISl"])
    assert selection_lines(outcome) == [
        "kept 1 of 6 units, 1 of 3 animals: 2 units below reliability 0.5; 3 units in 2 recordings with too "
        "few units left (q3: VISp needs 86, VISl needs 7). All units: --selection none"
    ]
    assert selection_lines(outcome.in_areas(["VISl"])) == [
        "kept 0 of 2 units, 0 of 1 animal: 1 unit below reliability 0.5; 1 unit in 1 recording with too few "
        "units left (q3: VISl needs 7). All units: --selection none"
    ]
    assert selection_lines(selection([""] * 6, ["VISp"] * 6)) == selection_lines(None) == []
    assert outcome.to_json() == {
        "units": 6,
        "units_kept": 1,
        "animals": 3,
        "animals_kept": 1,
        "excluded": {
            "reliability": {"units": 2, "recordings": 2},
            "few_units": {"units": 3, "recordings": 2},
        },
    }
