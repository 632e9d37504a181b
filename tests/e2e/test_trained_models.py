"""From training to features and scores: a run's checkpoint through `mvkit extract` and `mvkit score`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import mvkit
from mvkit.cli.main import run
from mvkit.models.loading import build_for_training
from mvkit.models.preprocessing import IMAGENET_64

RECIPE = """
name: tiny
source: tests
model: {architecture: single_stream_classifier}
views: {views: [{crop: {name: random_resized}, steps: [{name: flip}]}]}
objective: {name: cross_entropy}
optimiser: {name: sgd, learning_rate: 0.02}
train: {epochs: 2, batch_size: 20, seed: 4}
evaluate:
- {name: feature_neighbours, layer: ventral, k: 3}
- {name: linear_probe, layer: ventral}
- {name: validation_loss}
- name: neural_predictivity
  every_epochs: 2
  dataset: simulated
  layers: [VISp]
  areas: [VISl]
  recipe: PROTOCOL
"""
PROTOCOL = {"n_splits": 1, "n_halves": 3, "n_components": 5}

JsonOf = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_images: Path) -> Path:
    """The folder of a run of six steps, evaluated in every way."""
    folder = tmp_path_factory.mktemp("runs")
    protocol, recipe = folder / "tiny_protocol.yaml", folder / "tiny.yaml"
    protocol.write_text("".join(f"{key}: {value}\n" for key, value in PROTOCOL.items()))
    recipe.write_text(RECIPE.replace("PROTOCOL", str(protocol)))
    words = ["--images", str(demo_images), "--out", str(folder / "tiny"), "--device", "cpu"]
    assert run(["train", str(recipe), *words, "--workers", "1"]) == 0
    return folder / "tiny"


@pytest.fixture
def json_of(capsys: pytest.CaptureFixture[str]) -> JsonOf:
    """Run a command that must succeed and return its JSON document."""

    def document(*words: str) -> dict[str, Any]:
        assert run([*words, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return document


def by_area(document: dict[str, Any]) -> dict[str, float]:
    rows = document["models"][0]["best_layers"]
    return {row["area"]: row["median"] for row in rows if row["choice"] == "paper"}


def last_evaluation(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"][-1]


def test_features_are_those_of_the_weights_in_the_file(
    trained: Path, tmp_path: Path, json_of: JsonOf
) -> None:
    target = tmp_path / "features.h5"
    checkpoint = trained / "last.pt"
    report = json_of("extract", str(checkpoint), "--stimuli", "simulated", "--out", str(target))
    assert report["model"] == "tiny@step6"
    assert report["weights_id"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    contents = torch.load(checkpoint, weights_only=True)
    network = build_for_training("single_stream_classifier", n_classes=12, seed=0)
    network.load_state_dict(contents["model"])
    kept: dict[str, torch.Tensor] = {}
    network.eval().get_submodule(network.tap_points()["ventral"]).register_forward_hook(
        lambda module, inputs, output: kept.update(ventral=output)
    )
    images = IMAGENET_64(mvkit.open_dataset("simulated").stimuli[:16])
    with torch.no_grad():
        network(images)
    with h5py.File(target) as file:
        found = next(item for item in _datasets(file) if item.name.endswith("ventral"))
        np.testing.assert_allclose(found[:16], kept["ventral"].flatten(1), rtol=1e-4, atol=1e-5)


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    group.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def test_the_log_has_what_mvkit_score_finds(trained: Path, json_of: JsonOf) -> None:
    words = [f"--set={key}={value}" for key, value in PROTOCOL.items()]
    select = ["--dataset", "simulated", "--areas", "VISl", "--layers", "VISp", "--jobs", "1"]
    scored = by_area(json_of("score", str(trained), *select, *words))
    logged = last_evaluation(trained)
    assert logged["neural_predictivity.VISl"] == pytest.approx(scored["VISl"], rel=1e-9)
    assert logged["neural_predictivity.all"] == pytest.approx(scored["all"], rel=1e-9)
    start = by_area(json_of("score", str(trained), "--weights", "random", *select, *words))
    assert start["VISl"] != scored["VISl"]


def test_random_weights_are_where_the_run_started(trained: Path, json_of: JsonOf) -> None:
    select = ["--dataset", "simulated", "--areas", "VISl", "--splits", "1", "--halves", "2", "--jobs", "1"]
    start = json_of("score", str(trained / "last.pt"), "--weights", "random", *select)
    (model,) = start["models"]
    assert model["name"] == model["context"]["model"] == f"{trained / 'last.pt'} (random, seed 4)"
    assert (model["weights"], model["context"]["weights_id"]) == ("random, seed 4", "random:seed=4")
    # The same beside the run itself.
    both = json_of("score", f"{trained}@random", str(trained), *select)
    assert [one["name"] for one in both["models"]] == [f"{trained} (random, seed 4)", str(trained)]
    assert both["models"][0]["summary"] == model["summary"] != both["models"][1]["summary"]
    # The classifier with 1,000 classes has the same areas: its read-out is drawn after them.
    named = ["single_stream_classifier", "--weights", "random", "--seed", "4"]
    assert by_area(start) == by_area(json_of("score", *named, *select))


PAGE = (Path(__file__).parents[2] / "docs" / "concepts" / "training.md").read_text(encoding="utf-8")
SIMULATED = ["--dataset", "simulated", "--areas", "VISp", "--splits", "1", "--halves", "2", "--jobs", "1"]


def commands_of(page: str) -> list[list[str]]:
    blocks = re.findall(r"```(?:sh|text)\n(.*?)```", page, flags=re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def test_a_network_is_scored_at_the_size_it_was_trained_at(
    demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's two lines of the resolution experiment, on two small batches and simulated recordings."""
    monkeypatch.chdir(tmp_path)
    train, score = commands_of(PAGE)[:2]
    small = ["train.max_steps=2", "train.batch_size=4", "evaluate=[]", "objective.noise_samples=16"]
    words = [f"--set={change}" for change in small]
    assert run([*train[1:], "--images", str(demo_images), "--device", "cpu", *words]) == 0
    capsys.readouterr()
    assert run(["list", "layers", score[2], "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["description"] == "last.pt, epoch 1 of 200; images at 104 px"
    shapes = {layer["name"]: layer["shape"] for layer in listing["layers"]}
    # Convolution 11/4 with padding 2 and pooling 3/2: 104 -> 25 -> 12 (of 64 px: 7).
    assert shapes["features.3"] == [64, 12, 12]
    assert run([*score[1:], "--layers", "features.3", *SIMULATED]) == 0
    assert "alexnet_ir@step2: last.pt, epoch 1 of 200; images at 104 px" in capsys.readouterr().out
    readout = ["train", "alexnet_linear_readout", "--weights", score[2], "--images", str(demo_images)]
    assert run([*readout, "--device", "cpu"]) == 2
    message = "was trained at 104 px, and this recipe, which does not train it, shows it 64 px"
    assert message in capsys.readouterr().err
    preprocess = mvkit.load_model(score[2]).preprocess
    assert (preprocess.resize_px, preprocess.crop_px, preprocess.input_px) == (256, 224, 104)


def test_a_run_is_scored_by_its_best_epoch_where_the_recipe_says_so(
    trained: Path, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate grows a thousandfold after the first epochs, which spoils what was learned."""
    run_folder = tmp_path / "spoilt"
    changes = [
        "train.epochs=3",
        "schedule={name: step, milestones: [2], factor: 1000}",
        "checkpoint={score: best, best_by: validation_loss.top1}",
        "evaluate=[{name: validation_loss}]",
    ]
    words = ["--images", str(demo_images), "--out", str(run_folder), "--device", "cpu"]
    assert (
        run(["train", str(trained.parent / "tiny.yaml"), *words, *(f"--set={item}" for item in changes)]) == 0
    )
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    top1 = [line["validation_loss.top1"] for line in log if line["kind"] == "evaluation"]
    best = 1 + max(range(3), key=lambda epoch: top1[epoch])
    assert best < 3
    said = f"best validation_loss.top1: {top1[best - 1]:.4g}"
    assert f"stands for {run_folder / 'best.pt'} ({said})" in capsys.readouterr().out
    assert run(["score", str(run_folder), "--layers", "VISp", *SIMULATED]) == 0
    assert f"best.pt, epoch {best} of 3 ({said}); images at 64 px" in capsys.readouterr().out
    assert run(["score", str(run_folder / "last.pt"), "--layers", "VISp", *SIMULATED]) == 0
    assert "last.pt, epoch 3 of 3; images at 64 px" in capsys.readouterr().out


def test_every_evaluation_is_in_the_log(trained: Path) -> None:
    logged = last_evaluation(trained)
    assert logged["epoch"] == 2
    for key in (
        "feature_neighbours.top1",
        "linear_probe.top1",
        "linear_probe.train_top1",
        "validation_loss.top1",
    ):
        assert 0 <= logged[key] <= 1
        # 24 validation and 60 training images.
        images = 60 if "train" in key else 24
        assert logged[key] * images == pytest.approx(round(logged[key] * images))
    assert logged["validation_loss.loss"] > 0


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ("[{name: neural_predictivity}]", "mvkit fetch neural --dataset neuropixels"),
        ("[{name: linear_probe, layer: ventrl}]", "did you mean 'ventral'"),
        ("[{name: bank_neighbours}]", "has no memory bank"),
    ],
)
def test_evaluations_are_refused_before_training(
    trained: Path,
    demo_images: Path,
    tmp_path: Path,
    evaluate: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--images", str(demo_images), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run(["train", str(trained.parent / "tiny.yaml"), *words, "--set", f"evaluate={evaluate}"]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["runs/lost/last.pt"], 2, "no such file"),
        (["RUN/epoch_0007.pt"], 2, "no such file"),
        (["RUN", "--weights", "RUN/last.pt"], 2, "has weights of its own"),
        (["RUN", "--layers", "ventrl"], 2, "did you mean 'ventral'"),
        (["single_stream_classifier", "--weights", "RUN/last.pt"], 1, "read-out has 12 classes"),
        (["dual_stream_ir", "--weights", "RUN/last.pt"], 1, "not of 'dual_stream_ir'"),
        (["CUT/last.pt"], 1, "take another checkpoint of the run"),
    ],
)
def test_errors_say_what_to_do(
    trained: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "last.pt").write_bytes((trained / "last.pt").read_bytes()[:-100_000])
    places = [word.replace("RUN", str(trained)).replace("CUT", str(tmp_path)) for word in words]
    for command in (["score", *places], ["list", "layers", *places]):
        assert run(command) == code
        printed = capsys.readouterr()
        assert message in printed.err
        assert "Traceback" not in printed.err


@pytest.mark.realdata
@pytest.mark.slow
def test_real_recordings_are_scored(
    trained: Path, neural_file: Path, tmp_path: Path, json_of: JsonOf
) -> None:
    checkpoint = str(trained / "last.pt")
    features = tmp_path / "features.h5"
    extracted = json_of("extract", checkpoint, "--stimuli", str(neural_file), "--out", str(features))
    dataset = mvkit.open_dataset(neural_file)
    assert extracted["n_images"] == len(dataset.stimuli)
    assert [layer["name"] for layer in extracted["layers"]] == list(mvkit.load_model(checkpoint).layers)
    words = ["--dataset", str(neural_file), "--layers", "VISp,ventral", "--splits", "1", "--halves", "4"]
    scored = json_of("score", checkpoint, *words)
    medians = by_area(scored)
    assert sorted(medians) == sorted([*dataset.areas, "all"])
    # As for untrained networks (see test_real_recordings): well above pixels' .17, below .45.
    assert 0.17 < medians["all"] < 0.45
    # The file of features gives the same scores as the network.
    again = mvkit.score(
        mvkit.features.read_features(features), dataset, layers=["VISp", "ventral"], splits=1, halves=4
    )
    expected = again.best_layers().set_index("area")["median"]
    for area, median in medians.items():
        assert median == pytest.approx(expected[area], rel=1e-6)
