"""Checkpoints of training runs, as models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mvkit
from mvkit.errors import CheckpointError, UsageError
from mvkit.models.loading import VERSION, build_for_training
from mvkit.models.preprocessing import Preprocessing
from mvkit.training import checkpoint as checkpoints

ENCODER, CLASSIFIER = "single_stream_encoder", "single_stream_classifier"
PREPROCESS = Preprocessing(None, None, 64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

Write = Callable[..., Path]


def trained(architecture: str, n_classes: int | None, seed: int) -> torch.nn.Module:
    """A network whose weights no random start has."""
    model = build_for_training(architecture, n_classes=n_classes, seed=seed)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    return model


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write ``runs/demo/last.pt`` as the training loop does; keywords change it, "absent" removes."""

    def written(network: str = ENCODER, classes: int | None = None, **changes: Any) -> Path:
        model = trained(network, classes, seed=9)
        document = {
            "model": model.state_dict(),
            "architecture": network,
            "n_classes": classes,
            "preprocessing": PREPROCESS.as_dict(),
            "layers": ["VISp", "ventral"],
            "recipe": json.dumps({"name": "demo"}),
            "seed": 9,
            "objective": {"bank": torch.zeros(3)},
            "progress": {"step": 400, "epochs": 3},
        }
        kept = {key: value for key, value in {**document, **changes}.items() if value != "absent"}
        return checkpoints.write_checkpoint(tmp_path / "runs" / "demo", kept)

    return written


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("architecture", "n_classes"), [(ENCODER, None), (CLASSIFIER, 7), (CLASSIFIER, None)]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_checkpoint_is_the_network_that_was_trained(write: Write, architecture, n_classes, as_text):
    path = write(architecture, n_classes)
    model = mvkit.load_model(str(path) if as_text else path)
    assert same(model, trained(architecture, n_classes, seed=9))
    assert model.name == "demo@step400"
    assert model.layers == ("VISp", "ventral")
    assert model.preprocess == PREPROCESS
    assert model.weights_id == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(module.training for module in model.modules())


def test_a_run_folder_means_its_last_checkpoint(write: Write, monkeypatch: pytest.MonkeyPatch):
    path = write()
    model = mvkit.load_model(path)
    assert same(mvkit.load_model(path.parent), model)
    monkeypatch.chdir(path.parent.parent)
    for place in ("demo", "demo/", "demo/last.pt", "./demo"):
        assert same(mvkit.load_model(place), model)


def recipe_that_scores(which: str) -> str:
    checkpoint = {"score": which, "best_by": "validation_loss.top1"}
    return json.dumps({"name": "demo", "train": {"epochs": 3}, "checkpoint": checkpoint})


def test_a_run_folder_is_the_checkpoint_that_its_recipe_scores(write: Write):
    recipe, progress = recipe_that_scores("best"), {"step": 200, "epochs": 1, "best": 0.25}
    best = write(recipe=recipe, progress=progress)
    best = best.rename(best.with_name("best.pt"))
    last = write(recipe=recipe, progress={"step": 600, "epochs": 3, "best": 0.25})
    model = mvkit.load_model(last.parent)
    assert model.weights_id == hashlib.sha256(best.read_bytes()).hexdigest()
    assert model.describe() == "best.pt, epoch 1 of 3 (best validation_loss.top1: 0.25); images at 64 px"
    assert mvkit.load_model(last).describe() == "last.pt, epoch 3 of 3; images at 64 px"
    # A run that says the other one, and one of before recipes said anything.
    for changes in ({"recipe": recipe_that_scores("last")}, {}):
        write(**changes)
        assert mvkit.load_model(last.parent).weights_id == hashlib.sha256(last.read_bytes()).hexdigest()


def test_a_best_checkpoint_that_is_not_there_yet_is_not_replaced_by_another(write: Write):
    last = write(recipe=recipe_that_scores("best"))
    with pytest.raises(UsageError, match=r"scores best\.pt .* not there yet\nname another .*last\.pt"):
        mvkit.load_model(last.parent)
    assert mvkit.load_model(last).name == "demo@step400"


def test_networks_see_images_of_the_size_asked_for(write: Write):
    images = np.random.default_rng(0).integers(0, 256, (2, 80, 80), np.uint8)
    for model in (
        mvkit.load_model(write(), input_size=96),
        mvkit.load_model(ENCODER, "random", input_size=96),
    ):
        assert model.preprocess(images).shape == (2, 3, 96, 96)
        assert model.describe().endswith("images at 96 px on request; its own size is 64 px")
        features = mvkit.extract(model, images, layers=["VISp"])
        # Convolution 11/4 with padding 2, then pooling 3/2: 96 -> 23 -> 11.
        assert features.shapes["VISp"] == (64, 11, 11)
    with pytest.raises(UsageError, match="pixels is defined for its own size of images: leave"):
        mvkit.load_model("pixels", input_size=96)


def test_a_models_name_is_not_looked_for_among_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pixels").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mvkit.load_model("pixels").name == "pixels"


@pytest.mark.parametrize(("architecture", "n_classes"), [(ENCODER, None), (CLASSIFIER, 7)])
def test_random_weights_are_the_runs_start(write: Write, architecture, n_classes):
    path = write(architecture, n_classes)
    start = mvkit.load_model(path, weights="random")
    assert same(start, build_for_training(architecture, n_classes=n_classes, seed=9))
    assert (start.name, start.weights_id) == ("demo@start", "random:seed=9")
    assert (start.layers, start.preprocess) == (("VISp", "ventral"), PREPROCESS)
    assert not start.training
    other = mvkit.load_model(path, weights="random", seed=0)
    assert same(other, build_for_training(architecture, n_classes=n_classes, seed=0))
    assert other.weights_id == "random:seed=0"


def test_named_networks_take_the_weights_of_their_kind(write: Write):
    path = write()
    assert same(mvkit.load_model(ENCODER, weights=path), mvkit.load_model(path))
    # The long name is the same network.
    assert same(
        mvkit.load_model("simplified_mousenet_single_stream_ir", weights=path), mvkit.load_model(path)
    )


def test_named_networks_refuse_the_weights_of_others(write: Write):
    path = write(CLASSIFIER, 7)
    with pytest.raises(CheckpointError, match=r"read-out has 7 classes, that of 'single_stream_classifier'"):
        mvkit.load_model(CLASSIFIER, weights=path)
    with pytest.raises(
        CheckpointError, match=r"'single_stream_classifier' \(recipe demo\), not of 'dual_stream_enc"
    ):
        mvkit.load_model("dual_stream_encoder", weights=path)


def test_a_checkpoint_takes_no_other_weights(write: Write):
    path = write()
    with pytest.raises(UsageError, match="has weights of its own"):
        mvkit.load_model(path, weights=path)


def test_features_are_taken_from_a_path(write: Write):
    path = write()
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    by_path, loaded = mvkit.extract(path, images), mvkit.extract(mvkit.load_model(path), images)
    assert by_path.layers == ("VISp", "ventral")
    assert (by_path.model_name, by_path.weights_id) == (loaded.model_name, loaded.weights_id)
    for layer in by_path:
        np.testing.assert_array_equal(by_path[layer], loaded[layer])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("runs/demo/lost.pt", "no such file"),
        ("lost.pt", "no such file"),
        ("./lost", "no such file"),
        ("runs/empty", r"no last\.pt in this folder"),
        ("lost", "unknown model 'lost'"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place, message):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        mvkit.load_model(place)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files_are_refused_with_a_way_out(write: Write, share):
    path = write()
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(CheckpointError, match="take another checkpoint of the run") as caught:
        mvkit.load_model(path)
    assert str(path) in str(caught.value)


def test_other_checkpoints_are_told_apart(tmp_path: Path):
    path = tmp_path / "other.pt"
    torch.save({"state_dict": mvkit.load_model(ENCODER, "random").state_dict()}, path)
    with pytest.raises(
        CheckpointError, match=rf"not a checkpoint of mvkit train.*\n.*load_model\(NAME, weights=.{path}"
    ):
        mvkit.load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="not a checkpoint of mvkit train"):
        mvkit.load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": VERSION + 1}, f"format version {VERSION + 1}, but this mvkit reads up to {VERSION}"),
        ({"version": "new"}, "format version new"),
        ({"architecture": "dual_stream_encodr"}, "'dual_stream_encodr', which this mvkit does not have"),
        ({"architecture": "absent"}, "'architecture' is missing"),
        ({"seed": "absent"}, "'seed' is missing"),
        ({"progress": {}}, "'step' is missing"),
        ({"recipe": "{"}, "makes no sense"),
        ({"layers": 3}, "makes no sense"),
        ({"preprocessing": {}}, "makes no sense"),
        ({"preprocessing": {**PREPROCESS.as_dict(), "input_px": -1}}, "not numbers of pixels"),
        ({"preprocessing": {**PREPROCESS.as_dict(), "mean": (0.0,)}}, "makes no sense"),
        ({"architecture": "dual_stream_encoder"}, "does not fit 'demo@step400'"),
        ({"model": "absent"}, "no weights inside"),
    ],
)
def test_contents_that_make_no_sense_are_refused(write: Write, changes, message):
    with pytest.raises(CheckpointError, match=message):
        mvkit.load_model(write(**changes))


def test_diverged_runs_are_called_so(write: Write):
    state = trained(ENCODER, None, seed=9).state_dict()
    next(iter(state.values())).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="diverged"):
        mvkit.load_model(write(model=state))


def test_described_preprocessing_comes_back():
    assert Preprocessing.from_dict(json.loads(json.dumps(PREPROCESS.as_dict()))) == PREPROCESS
