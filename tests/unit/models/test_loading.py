"""Models by name, with released, random and given weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import mvkit
from mvkit.errors import CheckpointError, UsageError
from mvkit.models.registry import RELEASED
from mvkit.paths import checkpoint_path

SMALL = "simplified_mousenet_single_stream_ir"


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_random_weights_repeat_with_the_seed_and_differ_between_seeds():
    models = [mvkit.load_model(SMALL, weights="random", seed=seed) for seed in (1, 1, 2)]
    assert _equal(models[0], models[1])
    assert not _equal(models[0], models[2])
    assert [model.weights_id for model in models] == ["random:seed=1", "random:seed=1", "random:seed=2"]


@pytest.mark.parametrize("name", [SMALL, "shi_mousenet_ir", "resnet18_ir_64x64"])
def test_drawing_leaves_the_global_generator_alone(name):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = mvkit.load_model(name, weights="random", seed=0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)  # nor does the generator's state matter
    assert _equal(first, mvkit.load_model(name, weights="random", seed=0))


def test_linear_layers_start_as_pytorch_draws_them():
    """PyTorch's default is uniform within 1 / sqrt(fan-in)."""
    model = mvkit.load_model("alexnet_two_64x64", weights="random")
    weight = model.get_parameter("classifier.1.weight").detach()
    limit = 1 / weight.shape[1] ** 0.5
    assert 0.999 * limit < float(weight.abs().max()) <= limit
    assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.01)


def test_a_model_says_what_it_is():
    model = mvkit.load_model("dual_stream_ir", weights="random")
    assert model.name == "dual_stream_ir"
    assert model.layers == ("VISp", "ventral", "dorsal", "VISpor", "VISam")
    assert (model.preprocess.resize_px, model.preprocess.crop_px, model.preprocess.input_px) == (256, 224, 64)
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("released", [RELEASED["dual_stream_ir"]], ids=lambda row: row.name)
def test_released_weights_come_from_the_home_directory(released, tmp_path: Path):
    source = mvkit.load_model(released.architecture, weights="random", seed=7)
    path = checkpoint_path(released.name, tmp_path)
    path.parent.mkdir(parents=True)
    torch.save(
        {"epoch": 1, "model_state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path
    )
    for name in (released.name, released.architecture):
        model = mvkit.load_model(name, home=tmp_path)
        assert _equal(model, source)
        assert model.weights_id == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_given_file_is_loaded(tmp_path: Path):
    source = mvkit.load_model(SMALL, weights="random", seed=8)
    path = tmp_path / "mine.pt"
    torch.save(source.state_dict(), path)
    assert _equal(mvkit.load_model(SMALL, weights=path), source)
    assert _equal(mvkit.load_model(SMALL, weights=str(path)), source)


def test_loaded_weights_do_not_depend_on_the_file_afterwards(tmp_path: Path):
    source = mvkit.load_model(SMALL, weights="random", seed=8)
    path = tmp_path / "mine.pt"
    torch.save(source.state_dict(), path)
    model = mvkit.load_model(SMALL, weights=path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert _equal(model, source)


def test_loaded_parameters_train_and_masks_do_not(tmp_path: Path):
    source = mvkit.load_model("shi_mousenet_ir", weights="random")
    path = tmp_path / "shi.pt"
    torch.save(source.state_dict(), path)
    model = mvkit.load_model("shi_mousenet_ir", weights=path)
    assert all(p.requires_grad != key.endswith(".mask") for key, p in model.named_parameters())


def test_missing_released_weights_name_the_command_that_fetches_them():
    with pytest.raises(CheckpointError, match="mvkit fetch checkpoints six_stream_simclr") as caught:
        mvkit.load_model("six_stream_simclr")
    assert str(checkpoint_path("six_stream_simclr")) in str(caught.value)


def test_architectures_without_released_weights_say_which_exist():
    with pytest.raises(CheckpointError, match="no released weights for 'alexnet_bn'") as caught:
        mvkit.load_model("alexnet_bn")
    assert all(name in str(caught.value) for name in RELEASED)


def test_misspelt_weights_get_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'random'"):
        mvkit.load_model(SMALL, weights="randm")


@pytest.mark.parametrize("weights", ["nowhere/x.pt", Path("x.pt"), "x.pt"])
def test_missing_files_are_named(weights):
    with pytest.raises(CheckpointError, match=r"x\.pt: no such file"):
        mvkit.load_model(SMALL, weights=weights)


def test_unknown_models_are_refused():
    with pytest.raises(UsageError, match="unknown model 'dual_stream'"):
        mvkit.load_model("dual_stream")
