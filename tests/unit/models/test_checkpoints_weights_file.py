"""Safetensors files as checkpoints: told by content, read with the description of a training run."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from mvkit.errors import CheckpointError
from mvkit.models.checkpoints import fill_weights, read_checkpoint

OURS = {"mvkit_format": "mvkit-weights", "mvkit_format_version": "1"}


def _fill(model, path):
    return fill_weights(model, read_checkpoint(path), path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_safetensors_of_any_name_fill_a_model(tiny, weights, tmp_path, name, prefix):
    path = tmp_path / name
    save_file({prefix + key: value for key, value in weights.items()}, path)
    _fill(tiny, path)
    for key, value in tiny.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_torch_file_by_the_suffix_of_the_other_format_is_refused(weights, tmp_path):
    path = tmp_path / "w.safetensors"
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(path)


def test_a_header_whose_length_looks_like_a_page_is_no_page(tmp_path):
    # 0x3c20 is " <" as text, and a length of 15,392 bytes.
    length = 0x3C20
    plain = save({"weight": torch.ones(2)})
    (short,) = struct.unpack_from("<Q", plain)
    data = struct.pack("<Q", length) + plain[8 : 8 + short].ljust(length) + plain[8 + short :]
    path = tmp_path / "w.pt"
    path.write_bytes(data)
    assert data.lstrip().startswith(b"<")
    assert torch.equal(read_checkpoint(path)["model"]["weight"], torch.ones(2))


def test_the_description_of_a_run_stands_beside_the_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    run = {"format": "mvkit-checkpoint", "version": 1, "layers": ["VISp"]}
    save_file({"a": torch.ones(1)}, path, metadata={**OURS, "training_run": json.dumps(run)})
    contents = read_checkpoint(path)
    assert {**contents, "model": None} == {**run, "model": None}
    # Another program's metadata of that name mean nothing here.
    save_file({"a": torch.ones(1)}, path, metadata={"training_run": json.dumps(run)})
    assert set(read_checkpoint(path)) == {"model"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**OURS, "mvkit_format_version": "2"}, "weights file version 2, but this mvkit reads up to 1"),
        ({**OURS, "mvkit_format_version": "one"}, "its metadata are damaged"),
        ({"mvkit_format": "mvkit-weights"}, "its metadata are damaged .'mvkit_format_version'"),
        ({**OURS, "training_run": "{"}, "its metadata are damaged"),
        ({**OURS, "training_run": "[1]"}, "training_run is no object"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path, metadata, message):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).count("\n") == 1


def test_damaged_files_and_pages_are_told_apart(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"a": torch.ones(8)})[:-3])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(path)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="an HTML or XML page"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        read_checkpoint(path)
