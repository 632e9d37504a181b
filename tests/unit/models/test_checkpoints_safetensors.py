"""Reading safetensors files: values as another writer put them, and damage told in two lines."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from mvkit.errors import CheckpointError
from mvkit.models.checkpoints import looks_like_safetensors, read_safetensors


def by_hand(header: dict[str, object] | bytes, body: bytes = b"") -> bytes:
    """A file put together byte by byte, as the format's description says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


GOOD = by_hand(
    {
        "__metadata__": {"model": "tiny", "note": "ü"},
        "weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "count": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]},
    },
    struct.pack("<4fq", 1.5, -2.0, 0.25, 3.0, 17),
)


@pytest.fixture
def written(tmp_path: Path):
    """Write bytes to a file; return its path."""

    def write(data: bytes, name: str = "weights.safetensors") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_a_file_made_by_hand_is_read_value_by_value(written):
    path = written(GOOD)
    tensors, metadata = read_safetensors(path, remedy="")
    assert set(tensors) == {"weight", "count"}
    assert torch.equal(tensors["weight"], torch.tensor([[1.5, -2.0], [0.25, 3.0]]))
    assert (tensors["count"].dtype, tensors["count"].item()) == (torch.int64, 17)
    assert metadata == {"model": "tiny", "note": "ü"}


def test_what_the_numpy_side_of_the_library_wrote_is_read(written):
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.random((3, 2)).astype(np.float16),
        "double": rng.random(5),
        "bytes": np.arange(4, dtype=np.uint8),
        "flags": np.array([True, False]),
        "nothing": np.empty((0, 3), np.float32),
    }
    path = written(save(arrays))
    tensors, metadata = read_safetensors(path, remedy="")
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert str(tensors[name].dtype).removeprefix("torch.") == str(array.dtype)
        np.testing.assert_array_equal(tensors[name].numpy(), array)
    assert metadata == {}


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (GOOD, True),
        (b"", False),
        (GOOD[:8], False),
        (b"PK\x03\x04" + bytes(8), False),
        (b"\x80\x02\x8a\nl\xfc\x9cF{ ", False),
        (b"01234567{", False),
        (struct.pack("<Q", 100_000_001) + b"{", False),
    ],
)
def test_the_format_is_told_by_its_first_bytes(data, is_one):
    assert looks_like_safetensors(data) is is_one


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "empty": b"",
    "a few bytes": GOOD[:3],
    "cut in the header": GOOD[:40],
    "cut in the tensors": GOOD[:-5],
    "longer than its tensors": GOOD + b"xx",
    "header of exabytes": struct.pack("<Q", 2**62) + b"{",
    "header longer than the file": struct.pack("<Q", 99_000_000) + b"{",
    "no JSON": by_hand(b"{nope"),
    "no UTF-8": by_hand(b'{"\xff\xfe"}'),
    "tensors that overlap": by_hand({"a": FLOATS, "b": {**FLOATS, "data_offsets": [4, 12]}}, bytes(12)),
    "shape beyond the place": by_hand({"a": {**FLOATS, "shape": [2**62, 9]}}, bytes(8)),
    "unknown dtype": by_hand({"a": {**FLOATS, "dtype": "F33"}}, bytes(8)),
    "a page": b"<html><body>not found</body></html>",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_told_in_two_lines_with_a_way_out(written, data):
    path = written(data)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path, remedy="export it again")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}: not a readable safetensors file (")
    assert len(first) < len(str(path)) + 220
    assert second == "the file is damaged, incomplete or of another kind; export it again"


def test_places_without_a_file_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be read \(No such file"):
        read_safetensors(tmp_path / "none.safetensors", remedy="")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_safetensors(tmp_path, remedy="")


def test_names_of_files_are_bytes(written):
    path = written(GOOD, os.fsdecode(b"caf\xe9.safetensors"))
    tensors, metadata = read_safetensors(path, remedy="")
    assert tensors["weight"].tolist() == [[1.5, -2.0], [0.25, 3.0]]
    assert metadata == {"model": "tiny", "note": "ü"}
