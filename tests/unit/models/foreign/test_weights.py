"""Weights from files into networks from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mvkit
from mvkit.errors import CheckpointError
from mvkit.models.foreign.network import ForeignModel


def saved_state(nets: Path) -> dict[str, torch.Tensor]:
    """Weights that no seed of a test draws."""
    model = mvkit.load_model(f"{nets}:make", seed=77)
    assert isinstance(model, ForeignModel)
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


def test_heads_are_part_of_the_network(nets: Path, tmp_path: Path) -> None:
    state = saved_state(nets)
    del state["head.weight"]
    torch.save(state, tmp_path / "headless.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: head\.weight"):
        mvkit.load_model(f"{nets}:make", weights=tmp_path / "headless.pt")


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
    assert isinstance(first, ForeignModel)
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
