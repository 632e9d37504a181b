"""Betons that are cut, grown, changed, swapped or half written are refused before use."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvkit.errors import DataError
from mvkit.files import sha256_of
from mvkit.images import beton
from mvkit.images.beton import (
    BetonWriter,
    Encoded,
    Sidecar,
    SourceRecord,
    StorageFormat,
    check_complete,
    compare_with_crc,
    read_sidecar,
    read_structure,
    sidecar_path,
    verify_beton,
    write_sidecar,
)

PAGE = 1 << 16
N_IMAGES = 6


def _write(path: Path, seed: int = 0) -> Path:
    """Write a beton with raw images and depth maps of random sizes, and its sidecar."""
    generator = np.random.default_rng(seed)
    with BetonWriter(path, capacity=N_IMAGES + 2, has_depth=True, page_bytes=PAGE) as writer:
        for number in range(N_IMAGES):
            height, width = (int(side) for side in generator.integers(60, 110, 2))
            pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
            depth = beton.pack_depth(np.ascontiguousarray(pixels[:, :, 0]))
            writer.add(
                Encoded(
                    str(number), number % 2, beton.RAW_MODE, height, width, height, width,
                    pixels.tobytes(), depth, b"",
                )
            )  # fmt: skip
        writer.finish()
    structure = read_structure(path)
    write_sidecar(
        path,
        Sidecar(
            split="train",
            n_images=N_IMAGES,
            n_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            structure_sha256=structure.sha256,
            has_depth=True,
            classes=("even", "odd"),
            counts=(3, 3),
            stored=StorageFormat(
                format="raw", jpeg_quality=None, short_side_px=None, heights=(1, 2), widths=(1, 2)
            ),
            source=SourceRecord(kind="x", listing_digest="", content_digest="", n_files=1, n_bytes=1),
            recipe={},
            recipe_digest="",
        ),
    )
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton and its sidecar; tests restore what they change."""
    return _write(tmp_path_factory.mktemp("beton") / "train.beton")


def test_a_whole_file_passes(whole: Path) -> None:
    assert check_complete(whole).n_images == N_IMAGES
    assert verify_beton(whole, workers=2).sha256 == check_complete(whole).sha256
    structure = read_structure(whole)
    assert structure.column("label").tolist() == [0, 1, 0, 1, 0, 1]
    # No image shares a page with a part of another that does not fit.
    assert len({int(at) // PAGE for at in structure.table["ptr"]}) > 1


@pytest.mark.parametrize("n_bytes", [1, 2, 23, 24, 25, 48, 100, 1000, 4096, 12_345, 23_999, 24_000])
def test_a_file_cut_at_its_end_is_refused(whole: Path, n_bytes: int) -> None:
    content = whole.read_bytes()
    try:
        whole.write_bytes(content[:-n_bytes])
        with pytest.raises(DataError, match="cut short"):
            check_complete(whole)
        with pytest.raises(DataError):
            verify_beton(whole)
        # And where nobody had noted the size: a table cut between its rows is too short all the same.
        with pytest.raises(DataError):
            read_structure(whole)
    finally:
        whole.write_bytes(content)


@pytest.mark.parametrize("n_bytes", [1, 24, 4096])
def test_a_file_that_grew_is_refused(whole: Path, n_bytes: int) -> None:
    content = whole.read_bytes()
    try:
        whole.write_bytes(content + b"\0" * n_bytes)
        with pytest.raises(DataError, match="bytes"):
            check_complete(whole)
        with pytest.raises(DataError):
            read_structure(whole)
    finally:
        whole.write_bytes(content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_found(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    structure = read_structure(whole)
    at = data.draw(st.integers(0, len(content) - 1))
    original = bytes(content)
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        whole.write_bytes(bytes(content))
        with pytest.raises(DataError):
            verify_beton(whole)
        row_bytes = structure.rows.nbytes + beton.HEADER.itemsize + 4 * beton.FIELD.itemsize
        if at < row_bytes or at >= structure.table_at:
            with pytest.raises(DataError):
                check_complete(whole)
    finally:
        whole.write_bytes(original)


def test_what_is_read_back_is_compared_with_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    with BetonWriter(path, capacity=2, has_depth=True, page_bytes=PAGE) as writer:
        for number in range(2):
            pixels, depth = (
                np.full((4, 5, 3), 7, np.uint8),
                beton.pack_depth(np.full((4, 5), number, np.uint8)),
            )
            size = (4, 5, 4, 5)
            writer.add(Encoded("i", 0, beton.RAW_MODE, *size, pixels.tobytes(), depth, b""))
        writer.finish()
    structure = read_structure(path)
    compare_with_crc(structure, writer.crc)
    content = bytearray(path.read_bytes())
    content[int(structure.table["ptr"][3]) + 8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="reads back differently"):
        compare_with_crc(structure, writer.crc)


def test_a_file_whose_writer_was_stopped_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.beton")
    # FFCV's writer knows the table's place only at the end; until then the header says 0.
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 0)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="stopped before the end"):
        read_structure(path)


def test_another_file_of_the_same_size_is_refused(tmp_path: Path, whole: Path) -> None:
    other = _write(tmp_path / "train.beton", seed=1)
    content = other.read_bytes()
    missing = whole.stat().st_size - len(content)
    assert missing == 0
    sidecar_path(other).write_bytes(sidecar_path(whole).read_bytes())
    with pytest.raises(DataError, match=r"not the file that its \.json describes"):
        check_complete(other)


def test_a_missing_or_wrong_sidecar_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.beton")
    sidecar_path(path).write_text('{"format": "something else"}')
    with pytest.raises(DataError, match="not a description of a beton"):
        check_complete(path)
    sidecar_path(path).unlink()
    with pytest.raises(DataError, match=r"train\.json is missing"):
        check_complete(path)


def test_other_files_and_missing_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gabor.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(DataError, match=r"gabor\.h5: is no \.beton file \(an HDF5 file"):
        check_complete(path)
    path.write_bytes(b"words")
    with pytest.raises(DataError, match=r"gabor\.h5: is no \.beton file$"):
        check_complete(path)
    with pytest.raises(DataError, match=r"absent\.beton: no such file"):
        check_complete(tmp_path / "absent.beton")
    with pytest.raises(DataError, match="a folder"):
        check_complete(tmp_path)


def test_a_changed_word_of_the_sidecar_is_noticed(whole: Path) -> None:
    path = sidecar_path(whole)
    text = path.read_text()
    try:
        path.write_text(text.replace('"split": "', '"split": "x'))
        with pytest.raises(DataError, match="its digest differs"):
            read_sidecar(whole)
    finally:
        path.write_text(text)
