"""Networks that a user's own code makes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms._presets import ImageClassification

import mvkit
from mvkit.errors import CheckpointError, UsageError, UserCodeError
from mvkit.features.extraction import ForwardPass, layer_keys
from mvkit.features.stimuli import open_stimuli
from mvkit.models.base import weights_digest
from mvkit.models.external import ExternalModel
from mvkit.models.preprocessing import IMAGENET_224, Preprocessing

Write = Callable[[str, str], Path]


def own_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of the network inside."""
    assert isinstance(model, ExternalModel)
    return dict(model.network.state_dict())


def test_weights_are_drawn_from_the_seed_and_torchs_generator_is_left_alone(nets: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (mvkit.load_model(f"{nets}:make", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.weights_id == again.weights_id != other.weights_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = nn.Conv2d(3, 4, 4, 4).weight
    assert torch.equal(own_state(first)["stem.weight"], expected)
    assert (first.name, first.training) == ("nets.py:make", False)


def test_the_same_code_elsewhere_has_the_same_identity(nets: Path, user_file: Write) -> None:
    other = user_file("else/where.py", nets.read_text())
    first, second = mvkit.load_model(f"{nets}:make"), mvkit.load_model(f"{other}:make")
    assert first.weights_id == second.weights_id
    assert second.name == "where.py:make"


@pytest.mark.parametrize("factory", ["compiled", "compiled_inside"])
def test_wrappers_leak_into_no_name_and_change_no_value(nets: Path, factory: str) -> None:
    plain, wrapped = mvkit.load_model(f"{nets}:make"), mvkit.load_model(f"{nets}:{factory}")
    assert list(wrapped.tap_points()) == list(plain.tap_points())
    assert wrapped.weights_id == plain.weights_id
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    first, second = (mvkit.extract(model, images, layers="*") for model in (plain, wrapped))
    assert list(first) == list(second)
    for layer in first:
        np.testing.assert_array_equal(first[layer], second[layer])


def test_declared_layers_and_preprocessing_are_used(nets: Path) -> None:
    model = mvkit.load_model(f"{nets}:declaring")
    assert model.layers == ("block", "relu")
    assert model.preprocess == Preprocessing(None, 16, None, (0.5,) * 3, (0.25,) * 3)
    features = mvkit.extract(model, np.full((1, 16, 16), 255, np.uint8))
    assert list(features) == ["block", "relu[0]", "relu[1]"]


def test_options_win_over_what_is_declared(nets: Path) -> None:
    model = mvkit.load_model(f"{nets}:declaring", input_size=8, mean=0.1, grey=True)
    assert model.preprocess == Preprocessing(8, 8, None, (0.1,) * 3, (0.25,) * 3, grey=True)
    assert mvkit.load_model(f"{nets}:make").preprocess == IMAGENET_224
    resized = mvkit.load_model(f"{nets}:make", input_size=64, std=(0.1, 0.2, 0.3)).preprocess
    assert (resized.resize_px, resized.crop_px) == (73, 64)
    assert resized.std == (0.1, 0.2, 0.3)


def test_a_function_of_the_users_prepares_the_input(nets: Path) -> None:
    model = mvkit.load_model(f"{nets}:preparing")
    features = mvkit.extract(model, np.zeros((2, 30, 40), np.uint8), layers="stem")
    expected = own_state(model)["stem.bias"].numpy().repeat(4)
    np.testing.assert_allclose(features["stem"], np.stack([expected] * 2), atol=1e-7)
    with pytest.raises(UsageError, match="leave out mean"):
        mvkit.load_model(f"{nets}:preparing", mean=0.5)


def test_neighbours_can_be_imported_while_loading_and_leave_no_trace(user_file: Write) -> None:
    code = "from torch import nn\nimport neighbour\ndef make(): return nn.Conv2d(3, neighbour.WIDTH, 1)\n"
    before = list(sys.path)
    for folder, width in (("one", 2), ("two", 5)):
        user_file(f"{folder}/neighbour.py", f"WIDTH = {width}\n")
        model = mvkit.load_model(f"{user_file(f'{folder}/net.py', code)}:make")
        assert own_state(model)["bias"].shape == (width,)
    assert sys.path == before
    assert "neighbour" not in sys.modules and "net" not in sys.modules


def test_a_file_named_like_an_installed_module_is_not_confused_with_it(user_file: Write) -> None:
    code = "import timm, torch\nVERSION = timm.__version__\ndef make(): return torch.nn.Conv2d(3, 2, 1)\n"
    model = mvkit.load_model(f"{user_file('timm.py', code)}:make")
    assert list(model.tap_points()) == ["final"]
    import timm

    assert hasattr(timm, "create_model")


def test_a_module_of_the_current_folder(user_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = user_file("labnets_of_mvkit/__init__.py", "").parent
    user_file(
        "labnets_of_mvkit/small.py", "from torch import nn\nclass A:\n  make = lambda: nn.Linear(2, 3)\n"
    )
    monkeypatch.chdir(folder.parent)
    model = mvkit.load_model("labnets_of_mvkit.small:A.make")
    assert {key: tuple(value.shape) for key, value in own_state(model).items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


@pytest.mark.parametrize(
    ("inside", "error", "said"),
    [
        ("fails", UserCodeError, r"nets\.py:\d+: IndexError: list index out of range"),
        ("number", UserCodeError, "returned a int"),
        ("lazy", UserCodeError, "lazy"),
        ("needs", UsageError, "needs the argument 'width'"),
        ("maker", UsageError, "did you mean 'make'"),
        ("torch.pi", UsageError, "not a function"),
    ],
)
def test_what_a_function_does_wrong_is_said(nets: Path, inside: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        mvkit.load_model(f"{nets}:{inside}")
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make(:\n", r"broken\.py:1: SyntaxError"),
        ("x = 1\nimport no_such_thing\n", r"broken\.py:2: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(4)\n", r"broken\.py:2: SystemExit: 4"),
        ("from . import other\n", r"broken\.py:1: ImportError"),
    ],
)
def test_code_that_cannot_be_imported_is_located(user_file: Write, text: str, said: str) -> None:
    path = user_file("broken.py", text)
    modules = set(sys.modules)
    with pytest.raises(UserCodeError, match=said):
        mvkit.load_model(f"{path}:make")
    assert not any("broken" in name for name in set(sys.modules) - modules)


def test_a_forward_pass_that_fails_is_located(user_file: Write) -> None:
    text = "from torch import nn\nclass Net(nn.Module):\n  def forward(self, x):\n    return x @ x\n"
    model = mvkit.load_model(f"{user_file('wrong.py', text)}:Net", input_size=8)
    model.preprocess = lambda images: torch.zeros(len(images), 3, 8, 9)
    with pytest.raises(UserCodeError, match=r"1 x 3 x 8 x 9.*wrong\.py:4: RuntimeError") as caught:
        mvkit.extract(model, np.zeros((1, 8, 8), np.uint8), layers="final")
    assert "input_size=PX" in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_package_here:make", "torchvison:alexnet"])
def test_a_missing_module_is_a_wrong_name(name: str) -> None:
    with pytest.raises(UsageError, match="torchvision:NAME"):
        mvkit.load_model(name)


def some_pictures() -> np.ndarray:
    """Colour pictures that are not square."""
    return np.random.default_rng(5).integers(0, 256, (3, 40, 52, 3), dtype=np.uint8)


@pytest.mark.parametrize("factory", ["as_mvkits", "as_preset", "as_v1", "as_v2", "as_a_function"])
@pytest.mark.parametrize("colour", [True, False])
def test_a_networks_own_preprocessing_gives_what_it_gives_for_pil_images(
    nets: Path, factory: str, colour: bool
) -> None:
    model = mvkit.load_model(f"{nets}:{factory}")
    assert not any("preprocess" in layer for layer in model.tap_points())
    images = some_pictures() if colour else some_pictures()[..., 0]
    network: Any = model.get_submodule("network")
    # Transforms of tensors (v2 after ToImage) differ from those of PIL images by a grey level.
    preset = ImageClassification(crop_size=16, resize_size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    steps = network.preprocess if factory in ("as_v1", "as_v2") else preset
    inputs = torch.stack([steps(Image.fromarray(image).convert("RGB")) for image in images])
    with torch.no_grad():
        expected = network(inputs).numpy()
    features = mvkit.extract(model, images, layers="final")
    np.testing.assert_allclose(features["final"], expected, atol=1e-6)
    # Given as it is, a network is treated alike.
    again = mvkit.extract(network, images, layers="final")
    np.testing.assert_array_equal(again["final"], features["final"])
    used = features.provenance.preprocessing
    assert used.get("resize_px") == 16 if factory in ("as_mvkits", "as_preset") else used["function"]
    if factory in ("as_v1", "as_v2"):
        assert "Normalize(mean=" in str(used["steps"])


def test_cache_keys_tell_composed_transforms_apart(nets: Path, user_file: Write) -> None:
    text = nets.read_text()
    first = mvkit.load_model(f"{nets}:as_v2")
    same = mvkit.load_model(f"{user_file('copy/nets.py', text)}:as_v2")
    other = mvkit.load_model(f"{user_file('nets2.py', text.replace('v2.Resize(16)', 'v2.Resize(17)'))}:as_v2")
    images = open_stimuli(some_pictures())
    keys = [layer_keys(ForwardPass(model, images, ["final"]))["final"].key for model in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("what", ["entry", "class", "steps", "layer", "bytes", "pictures", "failing"])
def test_a_preprocess_that_is_none_is_refused(nets: Path, what: str) -> None:
    nets.write_text(f"{nets.read_text()}\ndef odd():\n    return declared(preprocess_is({what!r}))\n")
    with pytest.raises((UsageError, UserCodeError), match=r"\.preprocess must be") as caught:
        mvkit.extract(mvkit.load_model(f"{nets}:odd"), some_pictures(), layers="final")
    message = str(caught.value).splitlines()
    assert len(message) == 2 and message[0].startswith("nets.py:odd: .preprocess")


def test_options_beside_a_function_are_refused_and_change_a_preset(nets: Path) -> None:
    with pytest.raises(UsageError, match=r"nets\.py:as_v2 brings a \.preprocess.*leave out input_size, grey"):
        mvkit.load_model(f"{nets}:as_v2", input_size=8, grey=True)
    changed = mvkit.load_model(f"{nets}:as_preset", input_size=8, mean=0.1).preprocess
    assert (changed.resize_px, changed.crop_px, changed.mean) == (8, 8, (0.1,) * 3)


def test_a_network_of_timms_brings_its_configuration(nets: Path) -> None:
    model = mvkit.load_model(f"{nets}:as_timms")
    config = timm.data.resolve_model_data_config(model.get_submodule("network"))
    oracle = timm.data.create_transform(**config, is_training=False)
    picture = some_pictures()[0]
    prepared = model.preprocess(picture[None])[0]
    assert prepared.shape == (3, 48, 32)
    torch.testing.assert_close(prepared, oracle(Image.fromarray(picture)), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="48 x 32 px"):
        mvkit.load_model(f"{nets}:as_timms", input_size=32)
    with pytest.raises(UsageError, match=r"input_size \(3, 176, 176\), but .* takes 1 channel"):
        mvkit.load_model(f"{nets}:as_timms_grey")


def test_what_is_used_where_nothing_is_declared_is_said(nets: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        mvkit.load_model(f"{nets}:make", input_size=64)
    assert "nets.py:make declares no preprocessing" in caplog.text
    assert "resize 73, crop 64, mean 0.485,0.456,0.406" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        mvkit.load_model(f"{nets}:make", input_size=64, mean=0.5, std=0.5)
        mvkit.load_model(f"{nets}:declaring")
    assert caplog.text == ""


def test_a_network_on_meta_needs_weights(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"device 'meta', without values: stem\.weight.*\n.*weights=.FILE"):
        mvkit.load_model(f"{nets}:on_meta")
    source = mvkit.load_model(f"{nets}:make", seed=9)
    torch.save(source.get_submodule("network").state_dict(), tmp_path / "weights.pt")
    filled = mvkit.load_model(f"{nets}:on_meta", tmp_path / "weights.pt", input_size=16)
    assert filled.weights_id == source.weights_id
    assert np.isfinite(mvkit.extract(filled, some_pictures(), layers="stem")["stem"]).all()
    with pytest.raises(CheckpointError, match="buffers grid lie on the device 'meta'"):
        mvkit.load_model(f"{nets}:lost_on_meta", tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="device 'meta'"):
        mvkit.extract(nn.Conv2d(3, 1, 1, device="meta"), torch.rand(1, 3, 4, 4), layers="final")


def test_weights_of_a_file_without_values_do_not_fit(nets: Path, tmp_path: Path) -> None:
    torch.save({"stem.weight": torch.empty(2, device="meta")}, tmp_path / "meta.pt")
    with pytest.raises(CheckpointError, match=r"meta\.pt: does not fit 'nets\.py:make'"):
        mvkit.load_model(f"{nets}:make", tmp_path / "meta.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "from torch import nn\n\n\nclass Net(nn.Linear):\n    def state_dict(self, *a, **k):\n"
            "        raise RuntimeError('no list')\n\n\ndef make():\n    return Net(2, 2)\n",
            r"weights cannot be listed: .*own\.py:6: RuntimeError: no list",
        ),
        (
            "from torch import nn\n\n\ndef make():\n    net = nn.Sequential()\n"
            "    net.add_module('me', net)\n    return net\n",
            r"its weights cannot be listed: .*RecursionError",
        ),
    ],
    ids=["raises", "holds itself"],
)
def test_a_network_whose_weights_cannot_be_listed_is_located(
    user_file: Write, text: str, message: str
) -> None:
    with pytest.raises(UserCodeError, match=message):
        mvkit.load_model(f"{user_file('own.py', text)}:make")


def test_a_seed_that_torch_cannot_take(nets: Path) -> None:
    with pytest.raises(UsageError, match=r"^seed 1180591620717411303424: give a whole number below 2\*\*64"):
        mvkit.load_model(f"{nets}:make", seed=2**70)


def test_a_sparse_parameter_is_looked_at(nets: Path, user_file: Write) -> None:
    model = mvkit.load_model(f"{nets}:Sparse", input_size=16)
    features = mvkit.extract(model, some_pictures(), layers="final")
    pooled = nn.AdaptiveAvgPool2d(4)(model.preprocess(some_pictures())).flatten(1)
    np.testing.assert_allclose(features["final"], pooled.numpy(), atol=1e-6)
    text = nets.read_text().replace("torch.eye(48)", "2 * torch.eye(48)")
    other = mvkit.load_model(f"{user_file('other.py', text)}:Sparse", input_size=16)
    assert model.weights_id != other.weights_id


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_gives_values_and_not_their_codes(nets: Path) -> None:
    model = mvkit.load_model(f"{nets}:quantised", input_size=16)
    features = mvkit.extract(model, some_pictures(), layers=["1", "final"])
    with torch.no_grad():
        network: Any = model.get_submodule("network")
        inputs = model.preprocess(some_pictures())
        expected = network[1](network[0](inputs)).dequantize().flatten(1)
        output = network(inputs).flatten(1)
    np.testing.assert_array_equal(features["1"], expected.numpy())
    np.testing.assert_array_equal(features["final"], output.numpy())
    # Its weights are no parameters: nothing that is kept could tell that they changed.
    assert weights_digest(model) is None


def test_the_file_may_have_any_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / os.fsdecode(b"n\xe9t.py")
    path.write_text(
        "import torch\n\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))\n"
    )
    model = mvkit.load_model(f"{path}:make", input_size=32)
    assert [tuple(value.shape) for value in model.state_dict().values()] == [(2, 3, 3, 3), (2,)]
    assert "n\\xe9t.py:make declares no preprocessing" in caplog.text
