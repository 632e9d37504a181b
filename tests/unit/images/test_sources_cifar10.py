"""CIFAR-10's batches: pixels, labels, and pickles that want more than to be read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvkit.errors import DataError
from mvkit.images.sources import open_cifar10 as open_splits
from mvkit.images.sources import read_batch


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_planes_become_channels(make_cifar: Callable[..., Any], protocol: int) -> None:
    root, rows = make_cifar(protocol)
    images, labels = read_batch(root / "data_batch_1", 10)
    # Dataset description: 1024 red values row by row, then green, then blue.
    assert images[3, 5, 7].tolist() == [rows[3, plane * 1024 + 5 * 32 + 7] for plane in range(3)]
    assert labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n_images", [2, 30])
def test_the_published_form_is_read(tmp_path: Path, n_images: int) -> None:
    """Python 2 wrote the batches: text as bytes, pixels in memory order or, above 64 kB, left in the file."""
    rows = np.random.default_rng(0).integers(0, 256, (n_images, 3072)).astype(np.uint8)
    pixels, order = (rows.tobytes("F"), b"\x88") if n_images == 2 else (rows.tobytes(), b"\x89")
    path = tmp_path / "data_batch_1"
    labels = b"".join(b"K" + bytes([number % 10]) for number in range(n_images))
    path.write_bytes(
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(" + labels
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        + b"q\tU\x01bq\n\x87q\x0bRq\x0c(K\x01K" + bytes([n_images]) + b"M\x00\x0c\x86q\rcnumpy\ndtype\n"
        + b"q\x0eU\x02u1K\x00K\x01\x87q\x0fRq\x10(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + order + b"T" + len(pixels).to_bytes(4, "little") + pixels
        + b"tq\x11bU\tfilenamesq\x12]q\x13U\x05a.pngq\x14au."
    )  # fmt: skip
    images, numbers = read_batch(path, 10)
    np.testing.assert_array_equal(images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert numbers.tolist() == [number % 10 for number in range(n_images)]


def test_splits(make_cifar: Callable[..., Any]) -> None:
    root, rows = make_cifar()
    train, val = open_splits(root)
    assert (train.split, train.n_images, val.split, val.n_images) == ("train", 25, "val", 5)
    assert train.classes is not None and train.classes[3] == "cat"
    items = list(train.open_items())
    assert items[1].name == "data_batch_1[1]" and items[1].label == 1
    assert items[1].pixels is not None and items[1].pixels[0, 0, 0] == rows[1, 0]


def test_names_come_from_the_meta_file(make_cifar: Callable[..., Any]) -> None:
    root, _ = make_cifar()
    names = [f"name {number}" for number in range(10)]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in names]}, 2))
    assert open_splits(root)[0].classes == tuple(names)


def test_a_missing_batch_is_named(make_cifar: Callable[..., Any]) -> None:
    root, _ = make_cifar()
    (root / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 missing"):
        open_splits(root)


class _Runs:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_wants_to_run_something_runs_nothing(tmp_path: Path) -> None:
    path, witness = tmp_path / "data_batch_1", tmp_path / "was_run"
    path.write_bytes(pickle.dumps({b"data": _Runs(witness), b"labels": []}, 2))
    with pytest.raises(DataError, match=r"it names posix\.system"):
        read_batch(path, 10)
    assert not witness.exists()
    # The same file, read by pickle itself, does run it: the test can fail.
    pickle.loads(path.read_bytes())
    assert witness.exists()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], "not a dict"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "no 'labels'"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, "no array of bytes"),
        ({b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 1]}, "3000 bytes"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "not as many labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "from 0 to 9"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, document: object, message: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(document, 2))
    with pytest.raises(DataError, match=message):
        read_batch(path, 10)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_harmless(make_cifar: Callable[..., Any], data: st.DataObject) -> None:
    root, _ = make_cifar(n_images=2)
    path = root / "data_batch_1"
    content = bytearray(path.read_bytes())
    # The pixels cannot be wrong; what stands around them can.
    at = data.draw(st.one_of(st.integers(0, 150), st.integers(len(content) - 60, len(content) - 1)))
    content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.sampled_from([len(content), at + 1]))]))
    try:
        images, _ = read_batch(path, 10)
    except DataError:
        return
    assert images.shape == (2, 32, 32, 3)
