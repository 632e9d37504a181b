"""Reading checkpoints in all their formats, and refusing what is none."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mvkit.errors import CheckpointError
from mvkit.models.checkpoints import fill_weights, find_weights, read_checkpoint


def _fill(model, path):
    return fill_weights(model, read_checkpoint(path), path)


def _fits(model, weights) -> bool:
    state = model.state_dict()
    return list(state) == list(weights) and all(torch.equal(state[key], weights[key]) for key in weights)


def _training_state(weights) -> dict[str, object]:
    """What trainers keep beside the weights: optimiser, memory bank, numbers of several kinds."""
    momentum = {"momentum_buffer": torch.zeros(3)}
    return {
        "epoch": 3,
        "optimizer_state_dict": {"state": {0: momentum}, "param_groups": [{"lr": 0.03, "params": [0]}]},
        "memory_bank": torch.rand(100, 8),
        "model_state_dict": OrderedDict(weights),
        "results": {
            "loss": np.float32(1.5),
            "accuracy": np.float64(0.25),
            "step": np.int64(7),
            "done": np.bool_(True),
            "name": np.str_("run"),
            "losses": np.arange(4.0),
            "order": np.arange(3, dtype=np.int32),
        },
    }


@pytest.mark.parametrize("container", ["model_state_dict", "state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "backbone.module.", "encoder_q.0."])
def test_weights_are_found_in_any_container_under_any_prefix(tiny, weights, save, container, prefix):
    named = OrderedDict((prefix + key, value) for key, value in weights.items())
    path = save({container: named, "epoch": 4} if container else named)
    digest = _fill(tiny, path)
    assert _fits(tiny, weights)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_training_state_with_numpy_numbers_is_read(tiny, weights, save):
    path = save(_training_state(weights))
    _fill(tiny, path)
    assert _fits(tiny, weights)
    results = read_checkpoint(path)["results"]
    assert results["loss"] == 1.5
    assert type(results["accuracy"]) is np.float64
    assert (results["losses"] == np.arange(4)).all()


def test_numpy_numbers_of_other_numpy_versions_are_read(save):
    """numpy 2 moved the function that scalars are pickled with; files of both kinds exist."""
    path = save({"loss": np.float64(2.5), "weight": torch.zeros(1)})
    if path.stem == "legacy":
        path.write_bytes(_other_numpy(path.read_bytes()))
    else:
        _rewrite_pickle(path, _other_numpy)
    assert read_checkpoint(path)["loss"] == 2.5


def _other_numpy(data: bytes) -> bytes:
    """Name the function as the other generation of numpy does."""
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    ours, theirs = (old, new) if old in data else (new, old)
    assert ours in data
    return data.replace(ours, theirs)


def _rewrite_pickle(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, data in members:
            archive.writestr(info.filename, change(data) if info.filename.endswith("data.pkl") else data)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_other_precisions_become_float32_with_a_note(tiny, weights, save, dtype, caplog):
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    _fill(tiny, save(stored))
    expected = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    assert _fits(tiny, expected)
    assert str(dtype) in caplog.text


class _Shell:
    """Pickles as a call of os.system."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class _Evaluate:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return eval, (f"open({str(self.target)!r}, 'w').close()",)


class _Stranger:
    """A class that reading must not import."""


@pytest.mark.parametrize(
    "make", [_Shell, _Evaluate, lambda target: _Stranger(), lambda target: [{"deep": (_Shell(target),)}]]
)
def test_code_in_a_file_is_passed_over_and_not_run(tiny, weights, save, tmp_path, make):
    trace = tmp_path / "was_here"
    path = save({"config": make(trace), "model_state_dict": weights})
    _fill(tiny, path)
    assert _fits(tiny, weights)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bare_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    trace, path = tmp_path / "was_here", tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps(_Shell(trace), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not trace.exists()


def test_allowing_numpy_lasts_only_while_reading(weights, save):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save(_training_state(weights)))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("kept", [1, 4, 60, 600, 0.5, 0.9, -1])
def test_truncated_files_are_refused(weights, save, kept):
    path = save(_training_state(weights))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="mvkit fetch checkpoints --force"):
        read_checkpoint(path)


def test_a_changed_bit_of_a_weight_is_noticed(weights, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    data = bytearray(path.read_bytes())
    values = next(value for value in weights.values() if value.numel() > 8)
    data[data.index(values.numpy().tobytes()) + 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        read_checkpoint(path)


def test_damaged_files_never_raise_anything_else(weights, save):
    """Bytes changed at random: the reader either still makes sense of the file or says that it cannot."""
    path = save(_training_state(weights))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = data.copy()
        damaged[random.integers(0, len(data), 20)] = random.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>403</html>", "HTML or XML page"),
        (b"\n<?xml version='1.0'?><Error/>", "HTML or XML page"),
        (b"just some text\n" * 50, "not a readable checkpoint"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS.*\n.*git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(500), "compressed by gzip, not a checkpoint of torch's\nunpack it"),
        (bytes(257) + b"ustar" + bytes(500), "a tar archive.*\nunpack it"),
        (b"table" + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a checkpoint of TensorFlow.*\n.*state_dict"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_other_zip_archives_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="is a zip archive, not a checkpoint of torch's\nunpack it"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("contents", "found"), [({"epoch": 3}, "'epoch'"), ([1, 2], "a list"), ({}, "nothing")]
)
def test_files_without_weights_say_what_they_hold(tiny, save, contents, found):
    with pytest.raises(CheckpointError, match=f"no weights inside.*found {found}"):
        _fill(tiny, save(contents))


def test_names_of_files_are_bytes(tiny, weights, tmp_path):
    folder = tmp_path / os.fsdecode(b"run\xe9")
    folder.mkdir()
    torch.save(weights, tmp_path / "last.pt")
    (tmp_path / "last.pt").rename(folder / "last.pt")
    read = read_checkpoint(folder / "last.pt")
    assert list(read) == list(weights)
    assert all(torch.equal(read[key], weights[key]) for key in weights)


def test_old_archives_and_shared_lists_cost_nothing(tmp_path):
    """torch would unpack a tar archive; its first member may be a pipe, from which reading never ends."""
    head = bytearray(tarfile.TarInfo("storages").tobuf())
    head[156:157], head[257:265] = tarfile.FIFOTYPE, bytes(8)  # as before "ustar"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "old.pt").write_bytes(head + bytes(1024))
    with pytest.raises(CheckpointError, match=r"legacy \.tar"):
        read_checkpoint(tmp_path / "old.pt")
    shared: list[object] = ["mvkit"]
    for _ in range(60):
        shared = [shared, shared]
    torch.save({"model": {"w": torch.ones(2, 2)}, "format": shared}, tmp_path / "shared.pt")
    weights = find_weights(read_checkpoint(tmp_path / "shared.pt"), tmp_path / "shared.pt")
    assert list(weights) == ["w"]
