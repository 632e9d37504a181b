"""Weights from files into networks from elsewhere."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mvkit
from mvkit.errors import CheckpointError
from mvkit.models.external import ExternalModel


def saved_state(nets: Path) -> dict[str, torch.Tensor]:
    """Weights that no seed of a test draws."""
    model = mvkit.load_model(f"{nets}:make", seed=77)
    assert isinstance(model, ExternalModel)
    return {key: value.contiguous() for key, value in model.network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_prefixes_of_wrappers_are_dropped(nets: Path, tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in saved_state(nets).items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    model = mvkit.load_model(f"{nets}:make", weights=path)
    assert model.weights_id == mvkit.load_model(f"{nets}:make", seed=77).weights_id
    compiled = mvkit.load_model(f"{nets}:compiled", weights=path)
    assert compiled.weights_id == model.weights_id


def test_counts_of_batches_may_be_missing(nets: Path, tmp_path: Path) -> None:
    state = {key: value for key, value in saved_state(nets).items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pt")
    model = mvkit.load_model(f"{nets}:make", weights=tmp_path / "old.pt")
    assert model.weights_id == mvkit.load_model(f"{nets}:make", seed=77).weights_id


def test_a_network_with_modules_called_like_wrappers(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "from torch import nn\n"
        "def make(): return nn.ModuleDict({'module': nn.ModuleDict({'a': nn.Linear(2, 3)})})\n"
    )
    first = mvkit.load_model(f"{path}:make", seed=5)
    assert isinstance(first, ExternalModel)
    assert list(first.tap_points()) == ["module.a", "final"]
    torch.save(first.network.state_dict(), tmp_path / "odd.pt")
    again = mvkit.load_model(f"{path}:make", weights=tmp_path / "odd.pt")
    assert again.weights_id == first.weights_id


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_missing_and_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        mvkit.load_model(name, weights=tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        mvkit.load_model(name, weights=tmp_path / "bad.safetensors")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_old_names_of_densenets_are_understood(tmp_path: Path, prefix: str) -> None:
    """Published files are from before torch 0.4: "norm.1" for "norm1", no counts of batches."""
    torch.manual_seed(3)
    source = "from torchvision.models import DenseNet\ndef make(): return DenseNet(4, (2, 2), 8)\n"
    (tmp_path / "dense.py").write_text(source)
    own = mvkit.load_model(f"{tmp_path / 'dense.py'}:make", seed=11)
    state = own.get_submodule("network").state_dict()
    old = {
        prefix + re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2", key): value
        for key, value in state.items()
        if "num_batches" not in key
    }
    assert any("norm.1." in key for key in old)
    torch.save(old, tmp_path / "old.pth")
    filled = mvkit.load_model(f"{tmp_path / 'dense.py'}:make", weights=tmp_path / "old.pth")
    assert filled.weights_id == own.weights_id


def test_names_that_modules_themselves_know_are_understood(tmp_path: Path) -> None:
    """torchvision's MLP of transformers was renamed, and its class still reads the names of before."""
    (tmp_path / "vit.py").write_text(
        "from torchvision.models import VisionTransformer\n"
        "def make(): return VisionTransformer(16, 8, 1, 2, 8, 12, num_classes=3)\n"
    )
    own = mvkit.load_model(f"{tmp_path / 'vit.py'}:make", seed=12)
    state = own.get_submodule("network").state_dict()
    new = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    old = {
        next((key.replace(now, before) for now, before in new.items() if now in key), key): value
        for key, value in state.items()
    }
    assert set(old) != set(state)
    torch.save(old, tmp_path / "old.pth")
    filled = mvkit.load_model(f"{tmp_path / 'vit.py'}:make", weights=tmp_path / "old.pth")
    assert filled.weights_id == own.weights_id


def test_heads_that_only_training_uses_are_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "segment.py").write_text(
        "from torchvision.models.segmentation import lraspp_mobilenet_v3_large as lraspp\n"
        "def make(): return lraspp(weights=None, weights_backbone=None)\n"
    )
    own = mvkit.load_model(f"{tmp_path / 'segment.py'}:make", seed=13)
    state = dict(own.get_submodule("network").state_dict())
    state |= {"aux_classifier.0.weight": torch.ones(3), "aux_classifier.0.bias": torch.ones(3)}
    torch.save(state, tmp_path / "with.pth")
    with caplog.at_level(logging.WARNING):
        filled = mvkit.load_model(f"{tmp_path / 'segment.py'}:make", weights=tmp_path / "with.pth")
    assert filled.weights_id == own.weights_id
    assert "left aside aux_classifier (2 entries)" in caplog.text
    state["other_head.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: other_head\.weight"):
        mvkit.load_model(f"{tmp_path / 'segment.py'}:make", weights=tmp_path / "more.pth")
