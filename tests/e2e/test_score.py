"""`mvkit score` as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mvkit
from mvkit.cli.main import run
from mvkit.neural import SelectionSettings

QUICK = ["--splits", "2", "--halves", "6", "--jobs", "1"]


def json_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """Run a command that must succeed and return its JSON document."""
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rows_of(document: dict, table: str = "summary") -> list[dict]:
    """The rows of a table of the only model."""
    (model,) = document["models"]
    return model[table]


def settings_of(document: dict) -> dict:
    """All settings."""
    return {**document["protocol"], **document["reporting"]}


def overall(document: dict) -> float:
    """Median over all areas, each with its best layer."""
    return next(row["median"] for row in rows_of(document, "best_layers") if row["area"] == "all")


def test_the_true_model_is_recovered_and_pixels_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    gabor = json_of(["score", "gabor", "--dataset", "simulated", *QUICK], capsys)
    pixels = json_of(["score", "pixels", "--dataset", "simulated", *QUICK], capsys)
    assert 0.9 < overall(gabor) < 1.1
    assert overall(pixels) < overall(gabor) - 0.2
    areas = {row["area"] for row in rows_of(gabor)}
    assert areas == {"VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam", "all"}


def test_the_table_says_what_was_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "pixels", "--areas", "VISp,VISl", *QUICK]) == 0
    printed = capsys.readouterr()
    assert "SIMULATED" in printed.out
    assert "VISp" in printed.out
    assert "VISam" not in printed.out
    assert "2 image splits" in printed.out
    assert "mvkit fetch neural --dataset neuropixels" in printed.err


def test_files_hold_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas

    out = tmp_path / "out"
    words = ["score", "pixels", "--dataset", "simulated", "--areas", "VISp", *QUICK, "--out", str(out)]
    document = json_of(words, capsys)
    summary = json.loads((out / "summary.json").read_text())
    assert settings_of(summary) == settings_of(document)
    assert (summary["protocol"]["n_splits"], summary["protocol"]["n_halves"]) == (2, 6)
    written = pandas.read_csv(out / "summary.csv")
    assert written["median"].tolist() == [row["median"] for row in rows_of(document)]
    assert summary["context"]["versions"]["numpy"] == np.__version__
    csv, parquet = pandas.read_csv(out / "scores.csv"), pandas.read_parquet(out / "scores.parquet")
    assert len(csv) == len(parquet) > 0
    np.testing.assert_allclose(csv["score"], parquet["score"], rtol=1e-12)
    row = next(row for row in rows_of(document) if row["area"] == "VISp")
    assert row["median"] == pytest.approx(np.nanmedian(parquet["score"]), abs=1e-12)
    assert row["n_units"] == parquet["score"].notna().sum()
    assert row["n_animals"] == parquet["specimen"].nunique()


def test_scores_do_not_depend_on_the_worker_count(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "score",
        "pixels",
        "--dataset",
        "simulated",
        "--areas",
        "VISp,VISl",
        "--splits",
        "1",
        "--halves",
        "4",
    ]
    one, two = (json_of([*words, "--jobs", jobs], capsys) for jobs in ("1", "2"))
    assert rows_of(one) == rows_of(two)


def test_a_recipe_and_options_that_override_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("n_splits: 1\nn_halves: 2\nn_components: 3\n")
    words = ["score", "pixels", "--dataset", "simulated", "--areas", "VISp", "--jobs", "1"]
    document = json_of([*words, "--recipe", str(recipe), "--set", "n_components=4", "--halves", "3"], capsys)
    settings = settings_of(document)
    assert (settings["n_splits"], settings["n_halves"], settings["n_components"]) == (1, 3, 4)


@pytest.mark.parametrize("dataset", ["neuropixels", "calcium"])
def test_thresholds_reach_the_selection(
    dataset: str, legacy_published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = legacy_published.glob(f"mouse_{dataset}_*.pkl.xz")
    assert run(["fetch", "neural", "--dataset", dataset, "--from", str(source)]) == 0
    capsys.readouterr()
    words = ["score", "pixels", "--dataset", dataset, "--splits", "1", "--halves", "2", "--jobs", "1"]
    # The calcium recordings have no time bins.
    window = {"time_window_s": [0.04, 0.1]} if dataset == "neuropixels" else {}
    keys = {"min_reliability": 0.4, "min_units": 1, **window}
    settings = []
    for options in ([], [f"--set=selection.{key}={value}" for key, value in keys.items()]):
        document = json_of([*words, *options], capsys)
        settings.append(document["protocol"]["selection"]["settings"])
        expected = mvkit.open_dataset(dataset, selection=SelectionSettings(**settings[-1]))
        row = next(row for row in rows_of(document) if row["area"] == "all")
        assert row["n_units"] + row["n_nan"] == expected.n_units
    changed = {name: value for name, value in settings[1].items() if value != settings[0][name]}
    assert changed == {**keys, "min_mean_reliability": 0.4}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pixel"], 2, "did you mean 'pixels'"),
        (["pixels", "--layers", "pixls"], 2, "did you mean 'pixels'"),
        (["pixels", "--areas", "VISq"], 2, "did you mean 'VIS"),
        (["pixels", "--dataset", "neuropixel"], 2, "did you mean 'neuropixels'"),
        (["pixels", "--dataset", "neuropixels"], 1, "mvkit fetch neural --dataset neuropixels"),
        (["pixels", "--dataset", "calcium"], 1, "mvkit fetch neural --dataset calcium"),
        (["alexnet_bn_ir", "--layers", "features.3"], 1, "mvkit fetch checkpoints alexnet_bn_ir"),
        (["pixels", "--selection", "papr"], 2, "did you mean 'paper'"),
        (["pixels", "--set", "pls_stopping=never"], 2, "pls_stopping"),
        (["pixels", "--set", "n_split=3"], 2, "did you mean 'n_splits'"),
        (["pixels", "--set", "train_fraction=0.999"], 2, "train_fraction"),
        (["pixels", "--recipe", "score/papr"], 2, "did you mean 'score/paper'"),
        (["pixels", "--recipe", "papr"], 2, "did you mean 'paper'"),
        (["pixels", "--map", "rige"], 2, "did you mean 'ridge'"),
        (["pixels", "--ceiling", "holdot"], 2, "did you mean 'holdout'"),
        (["pixels", "--set", "estimator=corrected-men"], 2, "did you mean 'corrected-mean'"),
        (["pixels", "--set", "correction=atenuation"], 2, "did you mean 'attenuation'"),
        (["pixels", "--set", "correlation=pearsn"], 2, "did you mean 'pearson'"),
        (["pixels", "--set", "halving=splithalf"], 2, "did you mean 'split-half'"),
        (["pixels", "--set", "layer_choice=heldout"], 2, "did you mean 'held-out'"),
        (["pixels", "--set", "extrapolate=unit"], 2, "did you mean 'units'"),
        (["pixels", "--set", "mapping=rige"], 2, "did you mean 'ridge'"),
        (["pixels", "--set", "source_units=equal"], 2, "--ceiling holdout"),
        (["pixels", "--map", "rsa", "--splits", "3"], 2, "--splits 3 has no effect: rsa compares all images"),
        (["pixels", "--splits", "3", "--set", "n_splits=4"], 2, "--splits 3 contradicts --set n_splits=4"),
        (["pixels", "--areas", ""], 2, "--areas names nothing"),
        (["pixels", "--layers", ","], 2, "--layers names nothing"),
        (["pixels", "--device", "cudaa"], 2, "device cudaa: give auto, cpu, cuda, or cuda:1"),
        (
            ["pixels", "--dataset", "simulated", "--set", "selection.time_window_s=[0, 1]"],
            2,
            "time_window_s: the recordings have no time bins",
        ),
        (["pixels", "--dataset", "simulated", "--set", "input.grey=true"], 2, "leave out grey"),
        (["pixels", "--figure", "figure.bmp"], 2, ".svg"),
        (["pixels", "--table", "table.csv"], 2, "give a name that ends in .tex or .md"),
        (["pixels", "--as", "one"], 2, "--as one pools networks, such as runs of other seeds: give two"),
        (["pixels", "gabor", "--as", "one"], 2, "pixels and gabor have different layers"),
        (["gabr@random"], 2, "did you mean 'gabor'"),
        (["pixels@random", "pixels"], 2, "is the same model as pixels@random"),
        (["pixels", "--against", "nowhere"], 1, "mvkit score --out"),
        (["pixels", "pixels"], 2, "given twice"),
        (["pixels", "gabr"], 2, "did you mean 'gabor'"),
        (["pixels", "gabor", "--layers", "pixels"], 2, "gabor: unknown layer 'pixels'"),
        ([], 2, "MODEL"),
        (["pixels", "--set", "selection.min_units=q4"], 2, "min_units"),
        (["pixels", "--weights", "nowhere.pt"], 2, "no weights"),
        (["alexnet_bn_ir", "--weights", "nowhere.pt"], 1, "nowhere.pt"),
        (["alexnet_bn_ir", "--weights", "randm"], 2, "did you mean 'random'"),
    ],
)
def test_errors_say_what_to_do(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", *words]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") <= 6
    assert printed.out == ""


def test_an_interrupted_run_exits_with_130(
    tmp_path: Path,
    mvkit_process: Callable[..., subprocess.Popen[str]],
    wait_until: Callable[[Callable[[], bool], subprocess.Popen[str]], None],
) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    words = ["--splits", "100", "--jobs", "1", "--home", str(home), "--out", str(out)]
    process = mvkit_process("score", "gabor", "--dataset", "simulated", *words)
    # In the middle of its work: something was prepared, and all the fits would take minutes.
    wait_until(lambda: any(home.rglob("*.cached")), process)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    # A new installation compiles first, and says so.
    assert [line for line in errors.splitlines() if not line.startswith("compiling")] == ["interrupted"]
    assert not out.exists()


def test_table_2_is_not_quoted_beside_simulated_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "dual_stream_ir", "--weights", "random", "--layers", "VISam", "--areas", "VISp", *QUICK]
    out = tmp_path / "out"
    assert run([*words, "--dataset", "simulated", "--out", str(out)]) == 0
    assert "Table 2" not in capsys.readouterr().out
    assert run([*words, "--dataset", "simulated", "--details"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "Table 2" in line] == [
        "the paper's Table 2 (0.336) is not comparable: the SIMULATED dataset, selection none, areas VISp "
        "only and 3 more"
    ]
    summary = json.loads((out / "summary.json").read_text())
    document = json_of([*words, "--dataset", "simulated"], capsys)
    table2 = document["models"][0]["table2"]
    assert table2 == summary["models"][0]["table2"]
    assert (table2["value"], table2["comparable"]) == (0.3358, False)
    assert table2["here"] == overall(document)
    different = {part["of"]: (part["here"], part["paper"]) for part in table2["differences"]}
    assert different["n_splits"] == (2, 10)
    assert different["n_halves"] == (6, 100)
    assert list(different) == ["dataset", "selection", "areas", "n_splits", "n_halves", "layers"]


def test_published_layers_need_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--dataset", "simulated", "--areas", "VISp", *QUICK]
    document = json_of(["score", "pixels", "--layers", "published", *quick], capsys)
    assert rows_of(document, "layers") == ["pixels"]
    assert run(["score", "torchvision:alexnet", "--weights", "random", "--layers", "published", *quick]) == 2
    assert "torchvision:alexnet has no published list of layers" in capsys.readouterr().err


def test_each_animal_by_itself_is_the_rsa_of_the_published_code(capsys: pytest.CaptureFixture[str]) -> None:
    rsa = ["score", "pixels", "--dataset", "simulated", "--areas", "VISp", "--halves", "6", "--jobs", "1"]
    pooled = json_of([*rsa, "--recipe", "paper_rsa"], capsys)
    each = json_of([*rsa, "--recipe", "paper_rsa", "--set", "population=animal"], capsys)
    default = json_of([*rsa, "--map", "rsa"], capsys)
    best = [rows_of(document, "best_layers") for document in (pooled, each, default)]
    assert (pooled["protocol"]["population"], best[0][0]["n_units"]) == ("pooled", 1)
    assert best[1][0]["n_animals"] == 3
    assert best[1] == best[2]
    assert each["digest"] == default["digest"]
