"""Networks of torchvision and timm."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

import mvkit
from mvkit.errors import FetchError, MissingPackageError, UsageError
from mvkit.models.foreign.network import ForeignModel


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("torchvision:mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small()),
        ("timm:resnet10t", lambda: timm.create_model("resnet10t")),
    ],
)
def test_random_weights_are_the_librarys_own_at_that_seed(name, make) -> None:
    model = mvkit.load_model(name, weights="random", seed=6)
    assert isinstance(model, ForeignModel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        expected = make().state_dict()
    state = model.network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)
    assert (model.name, model.layers) == (name, ())
    assert model.weights_id.startswith("state:")


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small"])
def test_torchvisions_transforms_are_reproduced(name: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    prepared = mvkit.load_model(f"torchvision:{name}", weights="random").preprocess(pixels[np.newaxis])
    torch.testing.assert_close(prepared[0], transforms(Image.fromarray(pixels)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timms_transforms_are_reproduced(name: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    model = mvkit.load_model(f"timm:{name}", weights="random")
    assert isinstance(model, ForeignModel)
    config = timm.data.resolve_model_data_config(model.network)
    transforms = timm.data.create_transform(**config, is_training=False)
    prepared = model.preprocess(pixels[np.newaxis])
    torch.testing.assert_close(prepared[0], transforms(Image.fromarray(pixels)), rtol=0, atol=1e-6)
    assert model.preprocess.as_dict()["interpolation"] == config["interpolation"]


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("torchvision:alexnet", "released", "--weights random.*--weights DEFAULT"),
        ("torchvision:alexnett", "random", "did you mean 'alexnet'"),
        ("torchvision:alexnet", "IMAGENET1K_V9", "valid: random, DEFAULT, IMAGENET1K_V1, or a file"),
        ("timm:resnet10tt", "random", "did you mean"),
        ("timm:resnet10t", "released", "say which weights"),
        ("timm:resnet10t", "best", "valid: random, DEFAULT"),
    ],
)
def test_wrong_names_say_what_there_is(name: str, weights: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mvkit.load_model(name, weights=weights)


@pytest.mark.parametrize("name", ["torchvision:alexnet", "timm:resnet10t"])
def test_pretrained_weights_are_refused_where_the_network_is_forbidden(
    name: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MVKIT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FetchError, match=r"MVKIT_OFFLINE is set\n.*--weights FILE"):
        mvkit.load_model(name, weights="DEFAULT")


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(FetchError, match="Name or service not known") as caught:
        mvkit.load_model("torchvision:alexnet", weights="AlexNet_Weights.IMAGENET1K_V1")
    assert "https://download.pytorch.org/models/alexnet" in str(caught.value)


def test_missing_timm_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mvkit\[timm\]'") as caught:
        mvkit.load_model("timm:resnet18", weights="random")
    assert "\n" not in str(caught.value)


def test_detectors_are_made_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads"))
    model = mvkit.load_model("torchvision:lraspp_mobilenet_v3_large", weights="random", input_size=32)
    features = mvkit.extract(model, np.zeros((1, 40, 40), np.uint8), layers="final")
    assert features.shape_of("final:out") == (21, 32, 32)


@pytest.mark.parametrize("options", [{"input_size": 0}, {"mean": (1, 2)}, {"std": 0}, {"mean": float("nan")}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        mvkit.load_model("torchvision:squeezenet1_1", weights="random", **options)
    with pytest.raises(
        UsageError, match=r"its own (mean, deviation and colours|size of images): leave out --"
    ):
        mvkit.load_model("gabor", **options)
