"""Arrays, indexes and columns of text in the forms that numpy, pandas and pyarrow pickle them in."""

from __future__ import annotations

import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvkit import pickle_reader
from mvkit.errors import DataError
from mvkit.neural import pickle_arrays
from mvkit.pickle_reader import Name, PickleFile, Record, read_pickle


@pytest.fixture
def inert(tmp_path: Path) -> Any:
    """Return a function that pickles an object and gives its inert form and source."""

    def make(value: object, protocol: int = 4) -> tuple[Any, PickleFile]:
        path = tmp_path / "value.pkl"
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        source = PickleFile(path)
        return read_pickle(source), source

    return make


def test_files_are_read_and_hashed_where_the_system_takes_no_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on macOS.
    monkeypatch.delattr(os, "posix_fadvise")
    content = np.random.default_rng(0).bytes(pickle_arrays.BLOCK_BYTES + 1000)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb", buffering=0) as raw, ThreadPoolExecutor(1) as pool:
        hashed = pickle_arrays._HashedFile(raw, pool)
        assert bytes(hashed.read_block(pickle_arrays.BLOCK_BYTES)) == content[: pickle_arrays.BLOCK_BYTES]
        assert hashed.digest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<i2").reshape(2, 3),
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.ascontiguousarray(np.arange(24.0).reshape(2, 3, 4)).transpose(1, 2, 0),
        np.arange(40)[::3],
        np.array([True, False, True]),
        np.array([], dtype="u1"),
        np.array(3.5),
        np.arange(20_000, dtype="u2"),
    ],
    ids=str,
)
def test_arrays_are_read_as_numpy_wrote_them(inert: Any, array: Any, protocol: int) -> None:
    value, source = inert(array, protocol)
    read = pickle_arrays.load(pickle_arrays.array_ref(value, "it"), source, "it")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(2, dtype="c16"), "only numbers"),
        (np.zeros(2, dtype="M8[s]"), "only numbers"),
        (np.zeros(2, dtype=[("a", "f8")]), "only numbers|compound"),
        (np.array([object], dtype=object), "names builtins.object"),
        (np.zeros((0, 3)), "empty"),
    ],
)
def test_other_arrays_are_refused(inert: Any, array: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        value, source = inert(array)
        pickle_arrays.load(pickle_arrays.array_ref(value, "it"), source, "it")


def test_a_shape_that_needs_other_bytes_is_refused(inert: Any) -> None:
    value, _ = inert(np.zeros(3))
    version, _, *rest = value.state
    for shape in ((4,), (2,), (1 << 39, 1 << 39), (-1,), (3, True), "3", None):
        value.state = (version, shape, *rest)
        with pytest.raises(DataError, match=r"bytes, its shape|no readable shape"):
            pickle_arrays.array_ref(value, "it")


def test_loading_has_a_budget(inert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MOST_LOADED", 100_000)
    value, source = inert(np.zeros(10_000))
    with pytest.raises(DataError, match="80,000 bytes"):
        for _ in range(2):
            pickle_arrays.load(pickle_arrays.array_ref(value, "it"), source, "it")


def test_one_chunk_of_text_named_many_times_has_a_budget(inert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MOST_LOADED", 100_000)
    value, source = inert(pd.Index(pd.array(["x", "yy", None], dtype="string[pyarrow]")))
    state = value.arguments[1]["data"].state
    # "_data" in pandas before 2, and in chunks already.
    key = "_pa_array" if "_pa_array" in state else "_data"
    chunk = state[key]
    if pickle_arrays.is_record(chunk, "pyarrow.chunked_array"):
        chunk = chunk.arguments[0][0]
    state[key] = Record(Name("pyarrow.chunked_array"), (chunks := [chunk] * 2, None))
    assert pickle_arrays.index_values(value, source, "it").tolist() == ["x", "yy", "", "x", "yy", ""]
    chunks *= 1000
    with pytest.raises(DataError, match="all but the responses may take 100,000"):
        pickle_arrays.index_values(value, source, "it")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("index", "wanted"),
    [
        (pd.Index([3, 1, 2]), [3, 1, 2]),
        (pd.Index([0.5, np.nan]), [0.5, np.nan]),
        (pd.RangeIndex(5, 20, 4), [5, 9, 13, 17]),
        (pd.Index(["VISp", "é"]), ["VISp", "é"]),
        (pd.Index(["VISp", None, np.nan], dtype=object), ["VISp", "", ""]),
        (pd.Index([b"VISp"], dtype=object), ["VISp"]),
        (pd.Index([1, None, 2.5], dtype=object), [1, np.nan, 2.5]),
        (pd.Index([1, 2**40], dtype=object), [1, 2**40]),
        (pd.Index([True, False]), [True, False]),
        (pd.Index([np.int64(4), np.float32(0.5)], dtype=object), [4, 0.5]),
        (pd.Index(["a", pd.NA, ""], dtype=object), ["a", "", ""]),
        (pd.Index(np.array(["a", pd.NA, "long text"], dtype=object), dtype="string"), ["a", "", "long text"]),
        (pd.Index(pd.array(["x", None], dtype="string[pyarrow]")), ["x", ""]),
        (pd.Index(pd.array(["x", "yy", None, "é"], dtype="string[pyarrow]"))[1:], ["yy", "", "é"]),
        (pd.Index(pd.array(["x", None], dtype="string[python]")), ["x", ""]),
    ],
    ids=str,
)
def test_labels_come_out_as_columns(inert: Any, index: Any, wanted: list[Any], protocol: int) -> None:
    value, source = inert(index, protocol)
    np.testing.assert_array_equal(pickle_arrays.index_values(value, source, "it"), wanted)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["a", 1], dtype=object),
        pd.Index([(1, 2), 3], dtype=object, tupleize_cols=False),
        pd.Index([1, 2**80 + 1], dtype=object),
        pd.Index([2**60 + 1, 0.5], dtype=object),
        pd.Index([10**400, None], dtype=object),
        pd.Index(["a\0b"], dtype=object),
        pd.Index(["\ud800"], dtype=object),
    ],
    ids=repr,
)
def test_labels_that_cannot_be_kept_are_refused(inert: Any, index: Any) -> None:
    with pytest.raises(DataError):
        value, source = inert(index)
        pickle_arrays.index_values(value, source, "it")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_minus_one_is_a_missing_entry(inert: Any, protocol: int) -> None:
    columns = {
        "whole": pd.array([7, None, 5], dtype="Int64").to_numpy(dtype=object, na_value=None),
        "complete": [7, 7, 5],
        "real": [0.5, np.nan, 0.25],
        "text": ["b", None, "a"],
        "nothing": [np.nan, np.nan, np.nan],
    }
    value, source = inert(pd.MultiIndex.from_arrays(list(columns.values()), names=list(columns)), protocol)
    read = pickle_arrays.level_columns(value, source, "it")
    assert list(read) == list(columns)
    np.testing.assert_array_equal(read["whole"], [7.0, np.nan, 5.0])
    np.testing.assert_array_equal(read["complete"], [7, 7, 5])
    assert read["complete"].dtype == np.int64
    np.testing.assert_array_equal(read["real"], [0.5, np.nan, 0.25])
    np.testing.assert_array_equal(read["text"], ["b", "", "a"])
    np.testing.assert_array_equal(read["nothing"], [np.nan] * 3)


def test_damaged_indexes_are_refused(inert: Any) -> None:
    index = pd.MultiIndex.from_arrays([[1, 2], ["a", "b"]], names=["one", "two"])
    for key, bad in {
        "levels": lambda items: items[:1],
        "names": lambda items: ["one", "one"],
        "codes": lambda items: [items[0], pickle_arrays],
    }.items():
        value, source = inert(index)
        contents = value.arguments[1]
        contents[key] = bad(contents[key])
        with pytest.raises(DataError):
            pickle_arrays.level_columns(value, source, "it")
    value, source = inert(pd.RangeIndex(3))
    value.arguments[1].update(start=0, stop=1 << 40, step=1)
    with pytest.raises(DataError, match="range of more than"):
        pickle_arrays.index_values(value, source, "it")


def test_codes_outside_the_labels_are_refused(inert: Any) -> None:
    value, source = inert(pd.MultiIndex.from_arrays([[1, 2], ["a", "b"]], names=["one", "two"]), 4)
    code = value.arguments[1]["codes"][0]
    version, shape, dtype, order, _ = code.state
    for data in (b"\x00\x02", b"\xfe\x00"):
        code.state = (version, shape, dtype, order, data)
        with pytest.raises(DataError, match="outside its 2 labels"):
            pickle_arrays.level_columns(value, source, "it")
