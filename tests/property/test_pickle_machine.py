"""Bytes changed at random: a file is refused with DataError or read, and nothing else happens."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvkit.errors import DataError
from mvkit.neural import PublishedRecording, read_pickle_structure

FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EDIT = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))


@functools.cache
def _small_files(folder: Path) -> tuple[bytes, ...]:
    """Files without their large buffers' share of bytes: only those worth changing at random."""
    paths = sorted((folder / "odd" / "resaved").glob("*.pkl"))
    return tuple(path.read_bytes() for path in paths)


def _structural(data: bytes) -> list[int]:
    """Offsets outside long runs of array data: changes there alter structure."""
    import pickletools

    offsets: list[int] = []
    operations = list(pickletools.genops(data))
    for (_, argument, start), (_, _, end) in itertools.pairwise(operations):
        is_array = isinstance(argument, bytes | bytearray) and len(argument) > 64
        offsets.extend(range(start, start + 9) if is_array else range(start, end))
    return offsets


@functools.cache
def _targets(folder: Path) -> tuple[tuple[bytes, tuple[int, ...]], ...]:
    return tuple((data, tuple(_structural(data))) for data in _small_files(folder))


def _read(path: Path, data: bytes) -> PublishedRecording | None:
    path.write_bytes(data)
    try:
        recording = read_pickle_structure(path)
        recording.load_responses()
    except DataError as error:
        assert str(path) in str(error)
        return None
    return recording


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A file that every example overwrites."""
    return tmp_path / "changed.pkl"


@FUZZ
@given(which=st.integers(0, 1000), edits=st.lists(EDIT, min_size=1, max_size=6))
def test_changed_bytes(legacy: Path, scratch: Path, which: int, edits: list[tuple[float, int]]) -> None:
    targets = _targets(legacy)
    original, offsets = targets[which % len(targets)]
    data = bytearray(original)
    for place, value in edits:
        data[offsets[int(place * len(offsets))]] = value
    recording = _read(scratch, bytes(data))
    if recording is not None:
        assert recording.responses.shape == recording.load_responses().shape


@FUZZ
@given(
    which=st.integers(0, 1000),
    place=st.floats(0, 1, exclude_max=True),
    removed=st.integers(0, 12),
    inserted=st.binary(max_size=12),
)
def test_removed_and_inserted_bytes(
    legacy: Path, scratch: Path, which: int, place: float, removed: int, inserted: bytes
) -> None:
    targets = _targets(legacy)
    original, offsets = targets[which % len(targets)]
    at = offsets[int(place * len(offsets))]
    _read(scratch, original[:at] + inserted + original[at + removed :])


@FUZZ
@given(body=st.binary(max_size=60), protocol=st.integers(2, 5))
def test_arbitrary_instructions(scratch: Path, body: bytes, protocol: int) -> None:
    assert _read(scratch, bytes([0x80, protocol]) + body) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=1, max_size=3), packer=st.sampled_from(["gzip", "lzma"]))
def test_changed_compressed_files(
    legacy: Path, scratch: Path, edits: list[tuple[float, int]], packer: str
) -> None:
    import gzip
    import lzma

    data = bytearray(
        {"gzip": gzip.compress, "lzma": lzma.compress}[packer](min(_small_files(legacy), key=len))
    )
    for place, value in edits:
        data[int(place * len(data))] = value
    _read(scratch, bytes(data))
