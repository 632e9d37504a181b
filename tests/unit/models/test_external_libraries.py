"""Networks of torchvision and timm."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

import mvkit
from mvkit.errors import CheckpointError, FetchError, MissingPackageError, UsageError
from mvkit.features.stimuli import ArrayStimuli, network_inputs
from mvkit.models.external import ExternalModel
from mvkit.models.preprocessing import read_preset, read_timm


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("torchvision:mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small()),
        ("timm:resnet10t", lambda: timm.create_model("resnet10t")),
    ],
)
def test_random_weights_are_the_librarys_own_at_that_seed(name, make) -> None:
    model = mvkit.load_model(name, weights="random", seed=6)
    assert isinstance(model, ExternalModel)
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
    assert isinstance(model, ExternalModel)
    config = timm.data.resolve_model_data_config(model.network)
    transforms = timm.data.create_transform(**config, is_training=False)
    prepared = model.preprocess(pixels[np.newaxis])
    torch.testing.assert_close(prepared[0], transforms(Image.fromarray(pixels)), rtol=0, atol=1e-6)
    assert model.preprocess.as_dict()["interpolation"] == config["interpolation"]


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("torchvision:alexnet", "released", "weights=.random.*weights=.DEFAULT"),
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
    with pytest.raises(FetchError, match=r"MVKIT_OFFLINE is set\n.*weights=.FILE"):
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
    with pytest.raises(MissingPackageError, match=r"not installed .*: pip install timm$") as caught:
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
        UsageError,
        match=r"its own (mean, deviation and colours|size of images): leave out (input_size|mean|std|grey)",
    ):
        mvkit.load_model("gabor", **options)


def pictures() -> list[np.ndarray]:
    """Random pictures of several proportions, some smaller than crops."""
    rng = np.random.default_rng(3)
    sizes = ((300, 260, 3), (90, 150, 3), (120, 40, 3), (64, 64, 3))
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(3, 64, 64), (3, 96, 48), (3, 33, 65)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_every_field_of_timms_configuration_is_used(
    mode: str, size: tuple[int, int, int], interpolation: str
) -> None:
    for crop_pct in (0.875, 0.95, 1.0):
        config = {
            "input_size": size,
            "interpolation": interpolation,
            "mean": (0.48, 0.45, 0.4),
            "std": (0.2, 0.3, 0.25),
            "crop_pct": crop_pct,
            "crop_mode": mode,
        }
        oracle = timm.data.create_transform(**config, is_training=False)
        if mode == "center" and size[1] != size[2]:
            # Older timms (1.0.24, for one) leave this out here.
            oracle.transforms[0].interpolation = timm.data.transforms.str_to_interp_mode(interpolation)
        prepare = read_timm(config, "timm:any")
        for picture in pictures():
            expected = oracle(Image.fromarray(picture))
            torch.testing.assert_close(prepare(picture[None])[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("interpolation", "random", "interpolation 'random'"),
        ("crop_mode", "corner", "crop_mode 'corner'"),
        ("input_size", (4, 64, 64), "4 channels"),
        ("input_size", (1, 64, 64), r"mean \(0.5, 0.5, 0.5\)"),
        ("patch_size", 16, "patch_size 16"),
    ],
)
def test_what_of_timms_configuration_cannot_be_used_is_refused_by_name(
    field: str, value: object, said: str
) -> None:
    config = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(UsageError, match=f"timm:any: .*{said}"):
        read_timm({**config, "crop_pct": 0.9, "crop_mode": "center", field: value}, "timm:any")


def test_networks_of_timm_for_grey_images_get_one_channel() -> None:
    config = {"input_size": (1, 32, 32), "interpolation": "bicubic", "mean": (0.4,), "std": (0.2,)}
    config |= {"crop_pct": 1.0, "crop_mode": "center"}
    oracle = timm.data.create_transform(**config, is_training=False)
    for picture in pictures():
        expected = oracle(Image.fromarray(picture).convert("L"))
        prepared = read_timm(config, "timm:any")(picture[None])[0]
        torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-6)


def test_every_preset_of_torchvision_for_pictures_is_taken_over() -> None:
    seen = set()
    for name in torchvision.models.list_models():
        for entry in torchvision.models.get_model_weights(name):
            steps = entry.transforms()
            prepare = read_preset(steps)
            if prepare is None:
                assert type(steps).__name__ in ("VideoClassification", "OpticalFlow"), entry
            elif repr(steps) not in seen and min(getattr(steps, "resize_size", None) or [0]) < 260:
                for picture in pictures()[:2]:
                    expected = steps(Image.fromarray(picture))
                    torch.testing.assert_close(prepare(picture[None])[0], expected, rtol=0, atol=1e-6)
            seen.add(repr(steps))
    assert len(seen) > 25


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("r3d_18", "clips of video .*VideoClassification"),
        ("raft_small", "pairs of images .*OpticalFlow"),
    ],
)
def test_networks_that_take_no_pictures_are_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mvkit.load_model(f"torchvision:{name}", weights="random")


def test_a_random_network_gets_images_of_the_size_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first entry declares 518 px, which the network without weights refuses."""
    choices = torchvision.models.get_model_weights("vit_h_14")
    small = torchvision.models.vit_b_32
    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "vit_h_14", lambda **_: small())
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: choices)
    prepare = mvkit.load_model("torchvision:vit_h_14", weights="random").preprocess
    assert (prepare.resize_px, prepare.crop_px) == (224, 224)
    assert prepare.as_dict()["interpolation"] == "bicubic"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("MVKIT_OFFLINE", "1")
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def googlenet() -> dict[str, torch.Tensor]:
    """State of a GoogLeNet as it is trained, with the heads for that."""
    torch.manual_seed(1)
    network = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    return dict(network.state_dict())


def test_a_published_file_is_what_its_name_in_the_library_is(hub: Path, tmp_path: Path) -> None:
    """torchvision sets transform_input for its own weights of GoogLeNet, and no file says so."""
    torch.save(googlenet(), hub / "googlenet-1378be20.pth")
    named = mvkit.load_model("torchvision:googlenet", "DEFAULT", input_size=64)
    elsewhere = shutil.copy(hub / "googlenet-1378be20.pth", tmp_path / "my googlenet-1378be20 (1).pth")
    filed = mvkit.load_model("torchvision:googlenet", elsewhere, input_size=64)
    assert filed.get_submodule("network").transform_input is True
    assert (filed.weights_id, filed.preprocess) == (named.weights_id, named.preprocess)
    first, second = (mvkit.extract(model, pictures()[0][None], layers="final") for model in (named, filed))
    np.testing.assert_array_equal(first["final"], second["final"])


def test_a_file_that_could_be_of_two_kinds_is_refused_with_what_to_say(hub: Path) -> None:
    path = hub / "mine.pth"
    torch.save(googlenet(), path)
    with pytest.raises(UsageError, match=r"IMAGENET1K_V1=.*transform_input=True.*none=.*=False") as caught:
        mvkit.load_model("torchvision:googlenet", path)
    assert len(str(caught.value).splitlines()) == 2
    for word, transforms in (("IMAGENET1K_V1", True), ("GoogLeNet_Weights.DEFAULT", True), ("none", False)):
        model = mvkit.load_model("torchvision:googlenet", f"{word}={path}")
        assert model.get_submodule("network").transform_input is transforms
        assert model.provenance.source == f"file mine.pth, settings of {word}"
    with pytest.raises(UsageError, match="valid: random, DEFAULT, IMAGENET1K_V1, or a file"):
        mvkit.load_model("torchvision:googlenet", f"IMAGENET1K_V2={path}")


def test_files_of_two_entries_get_the_transforms_of_theirs(hub: Path, monkeypatch) -> None:
    """The published file of MobileNet V2's first weights: resize 256, not the 232 of the second."""
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    for name, resize in (("mobilenet_v2-b0353104.pth", 256), ("mobilenet_v2-7ebf99e0.pth", 232)):
        torch.save(state, hub / name)
        assert mvkit.load_model("torchvision:mobilenet_v2", hub / name).preprocess.resize_px == resize
    torch.save({f"module.{key}": value for key, value in state.items()}, hub / "mine.pth")
    with pytest.raises(UsageError, match=r"V2=.*resize 232.*V1=.*resize 256"):
        mvkit.load_model("torchvision:mobilenet_v2", hub / "mine.pth")
    own = mvkit.load_model("torchvision:mobilenet_v2", f"IMAGENET1K_V1={hub / 'mine.pth'}")
    assert own.preprocess.resize_px == 256
    # Renamed, a published file is known by its content: here by that of the file at hand.
    content = hashlib.sha256((hub / "mine.pth").read_bytes()).hexdigest()[:8]
    entry = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    monkeypatch.setattr(entry.value, "url", f"https://example.org/mobilenet_v2-{content}.pth")
    assert mvkit.load_model("torchvision:mobilenet_v2", hub / "mine.pth").preprocess.resize_px == 256


def test_a_file_of_ones_own_is_loaded_with_a_remark(
    hub: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    state = torchvision.models.resnet18(weights=None).state_dict()
    before = torch.random.get_rng_state()
    torch.save(state, hub / "mine.pth")
    with caplog.at_level(logging.WARNING):
        model = mvkit.load_model("torchvision:resnet18", hub / "mine.pth")
    assert "mine.pth: not one of torchvision's files" in caplog.text
    assert "resize 256, crop 224, bilinear" in caplog.text
    loaded = model.get_submodule("network").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert torch.equal(torch.random.get_rng_state(), before)
    state["fc.bias"][0] = torch.nan
    torch.save(state, hub / "diverged.pth")
    with pytest.raises(CheckpointError, match=r"'fc\.bias' holds values that are not finite"):
        mvkit.load_model("torchvision:resnet18", hub / "diverged.pth")
    with pytest.raises(CheckpointError, match="does not fit 'torchvision:resnet34'"):
        mvkit.load_model("torchvision:resnet34", hub / "mine.pth")


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_make_a_quantised_network(hub: Path) -> None:
    torch.manual_seed(4)
    network = torchvision.models.quantization.shufflenet_v2_x0_5(weights=None, quantize=True)
    path = hub / "shufflenetv2_x0.5_fbgemm-00845098.pth"
    torch.save(network.state_dict(), path)
    named = mvkit.load_model("torchvision:quantized_shufflenet_v2_x0_5", "DEFAULT", input_size=64)
    filed = mvkit.load_model("torchvision:quantized_shufflenet_v2_x0_5", path, input_size=64)
    assert named.weights_id == filed.weights_id
    picture = pictures()[0][None]
    features = mvkit.extract(filed, picture, layers=["conv5", "final"])
    with torch.no_grad():
        expected = network(filed.preprocess(picture))
    np.testing.assert_array_equal(features["final"], expected.numpy())
    assert np.ptp(features["conv5"]) > 0
    other = torchvision.models.quantization.shufflenet_v2_x0_5(weights=None, quantize=True)
    torch.save(other.state_dict(), path)
    assert mvkit.load_model("torchvision:quantized_shufflenet_v2_x0_5", path).weights_id != filed.weights_id


def test_a_file_of_timms_other_weights_is_prepared_for_as_these(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = timm.create_model("resnet18").state_dict()
    path = tmp_path / "resnet18_a3_0-40c531c8.pth"
    torch.save(state, path)
    assert mvkit.load_model("timm:resnet18", path).preprocess.crop_px == 160
    assert mvkit.load_model("timm:resnet18.tv_in1k", path).preprocess.crop_px == 224
    with caplog.at_level(logging.WARNING):
        path = path.rename(tmp_path / "mine.pth")
        assert mvkit.load_model("timm:resnet18", path).preprocess.crop_px == 224
    assert "timm:resnet18.TAG" in caplog.text
    with pytest.raises(UsageError, match=r"timm:resnet18\.TAG"):
        mvkit.load_model("timm:resnet18", f"a3_in1k={path}")


def test_detectors_scale_images_themselves() -> None:
    model = mvkit.load_model("torchvision:ssdlite320_mobilenet_v3_large", weights="random")
    picture = pictures()[1]
    prepared = model.preprocess(picture[None])[0]
    torch.testing.assert_close(prepared, torch.from_numpy(picture).permute(2, 0, 1) / 255)
    with pytest.raises(UsageError, match="several shapes"):
        network_inputs(model, ArrayStimuli(np.zeros((2, 8, 8), np.uint8), (0, 1)), pictures()[:2])
