"""The pickle reader: what it builds, and everything it refuses."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from mvkit import pickle_reader
from mvkit.errors import DataError
from mvkit.pickle_reader import BufferRef, Name, PickleFile, Record, read_pickle

PROTO4 = b"\x80\x04"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Return a function that loads bytes as a pickle file."""

    def load_bytes(data: bytes) -> Any:
        path = tmp_path / "some.pkl"
        path.write_bytes(data)
        return read_pickle(PickleFile(path))

    return load_bytes


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back_as_python_loads_it(load: Any, protocol: int) -> None:
    shared = ["a", "é€😀", 1.5]
    value = {
        "numbers": [0, 255, 256, -1, 70000, -(2**31), 2**31, 2**70, -(2**70), 1e300],
        "others": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "shared": [shared, shared],
        7: {"nested": {"deeper": []}},
        1.5: {},
        "many": list(range(3000)),
    }
    loaded = load(pickle.dumps(value, protocol=protocol))
    assert loaded == value
    assert loaded["shared"][0] is loaded["shared"][1]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_bytes_come_back_small_or_as_references(load: Any, tmp_path: Path, protocol: int) -> None:
    small, large = b"\x00\xff", bytes(range(256)) * 1000
    loaded = load(pickle.dumps([small, large], protocol=protocol))
    assert loaded[0] == small
    assert isinstance(loaded[1], BufferRef)
    assert PickleFile(tmp_path / "some.pkl").load(loaded[1], "it") == large


def test_sets_come_back_as_lists(load: Any) -> None:
    assert sorted(load(pickle.dumps({3, 1, 2}, protocol=4))) == [1, 2, 3]
    assert sorted(load(pickle.dumps(frozenset({3, 1}), protocol=4))) == [1, 3]


def test_allowed_names_become_labels_and_calls_become_records(load: Any) -> None:
    loaded = load(
        PROTO4 + text("numpy") + text("dtype") + b"\x93" + text("f8") + b"\x85R" + text("state") + b"b."
    )
    assert isinstance(loaded, Record)
    assert loaded.maker == Name("numpy.dtype")
    assert loaded.arguments == ("f8",)
    assert loaded.state == "state"
    assert isinstance(load(b"\x80\x02cnumpy\nndarray\n."), Name)
    assert load(PROTO4 + text("numpy") + text("ndarray") + b"\x93)}\x92.").arguments == ()


def test_ordered_dictionaries_become_dictionaries(load: Any) -> None:
    from collections import OrderedDict

    assert load(pickle.dumps(OrderedDict(a=1, b=[2]), protocol=2)) == {"a": 1, "b": [2]}
    pairs = b"](](" + text("a") + b"K\x01e(" + text("b") + b"K\x02te\x85R."
    assert load(PROTO4 + text("collections") + text("OrderedDict") + b"\x93" + pairs) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"),
        ("subprocess", "Popen"), ("pandas", "read_pickle"), ("numpy", "load"), ("numpy.core.multiarray", "x"),
        ("numpy", "dtype.__class__"), ("xarray.core.dataarray", "DataArray.__init__"), ("", ""),
        ("numpy.evil", "dtype"), ("evil", "OrderedDict"),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_name_and_offset(load: Any, module: str, name: str) -> None:
    head = PROTO4 + text(module) + text(name)
    with pytest.raises(DataError) as caught:
        load(head + b"\x93.")
    assert f"{module}.{name}" in str(caught.value)
    assert f"byte {len(head)}:" in str(caught.value)
    with pytest.raises(DataError, match="it names"):
        load(b"\x80\x02c" + f"{module}\n{name}\n.".encode())
    with pytest.raises(DataError, match="instruction b'i': pickle protocols 2 to 5 do not write it"):
        load(b"\x80\x02(i" + f"{module}\n{name}\n.".encode())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "ends after 2 of at least 3"),
        (b".", "needs a value"),
        (b"(.", "needs a value"),
        (b"N(K\x01\x85\x86.", "needs a value"),
        (b"t.", "needs a mark"),
        (b"h\x05.", "memo 5"),
        (b"\x94.", "needs a value"),
        (b"K\x01K\x02R.", "not a class or function"),
        (b"K\x01K\x02b.", "not an object"),
        (b"K\x01K\x02a.", "not a list"),
        (b"]K\x02K\x03s.", "not a dictionary"),
        (b"})N s.", "instruction"),
        (b"})Ns.", "dictionary key"),
        (b"}(Nu.", "key without a value"),
        (b"(o.", "do not write it"),
        (b"K\x01\x8c\x01a\x93.", "not text"),
        (b"\x8c\x02\xff\xff.", "UTF-8"),
        (b"T\xff\xff\xff\xff.", "negative"),
        (b"\x8b\xff\xff\xff\x7f.", "integer of"),
        (b"\x8b\xff\xff\xff\xff.", "integer of"),
        (b"c" + b"a" * 300, "name of more than"),
        (b"c\xff\n\xff\n.", "UTF-8"),
        (b"\x97.", "outside the file"),
        (b"\x98.", "outside the file"),
        (b"\x82\x01.", "extension code"),
        (b"Q.", "persistent id"),
        (b"\x80\x09.", "protocol 9"),
        (b"I1\n.", "instruction b'I'"),
        (b"N.trailing", "bytes follow"),
        (b"\x95" + struct.pack("<Q", 1 << 60) + b".", "ends after"),
        (b"\x8e" + struct.pack("<Q", 1 << 60) + b".", "ends after"),
        (b"\x8d" + struct.pack("<Q", (1 << 64) - 1) + b".", "ends after"),
        (b"B\xff\xff\xff\xff.", "ends after"),
    ],
)  # fmt: skip
def test_damaged_instructions_are_refused(load: Any, body: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(PROTO4 + body)


def test_a_call_needs_a_tuple_and_no_keywords(load: Any) -> None:
    ndarray = text("numpy") + text("ndarray") + b"\x93"
    with pytest.raises(DataError, match="not a tuple"):
        load(PROTO4 + ndarray + b"]R.")
    with pytest.raises(DataError, match="keyword"):
        load(PROTO4 + ndarray + b")}" + text("a") + b"K\x01s\x92.")
    with pytest.raises(DataError, match="filled twice"):
        load(PROTO4 + ndarray + b")\x81K\x01bK\x02b.")


def test_deep_nesting_is_followed_without_recursion(load: Any) -> None:
    depth = 100_000
    value = load(PROTO4 + b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (value,) = value
    assert value == []


def test_dictionary_keys_are_never_hashed_deeply(load: Any) -> None:
    doubling = b")" + b"2\x86" * 60  # a tuple of 2 ** 60 leaves, as one object
    with pytest.raises(DataError, match="dictionary key"):
        load(PROTO4 + b"}" + doubling + b"Ns.")


def test_work_and_memory_are_bounded(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MOST_INSTRUCTIONS", 1000)
    monkeypatch.setattr(pickle_reader, "MOST_SMALL_BYTES", 10_000)
    with pytest.raises(DataError, match="more than 1,000 instructions"):
        load(PROTO4 + b"]" * 2000 + b".")
    with pytest.raises(DataError, match="more than 10,000 bytes"):
        load(PROTO4 + (b"X" + struct.pack("<I", 6000) + b"a" * 6000) * 2 + b".")
    one_list = b"]\x94(" + (b"(K\x01K\x02t" * 100) + b"e0"
    make = text("collections") + text("OrderedDict") + b"\x93h\x00\x85R"
    with pytest.raises(DataError, match="more than 10,000 bytes"):
        load(PROTO4 + one_list + make * 10 + b".")


def test_a_refusal_names_the_instruction_and_its_place(load: Any) -> None:
    with pytest.raises(DataError, match=r"byte 4: a call of something that is not .* \(REDUCE\)$"):
        load(b"\x80\x02N)R.")
    with pytest.raises(DataError, match=r"byte 4: it names os\.system.*nothing was run \(GLOBAL\)$"):
        load(b"\x80\x02" + b"NN" + b"cos\nsystem\n.")


def test_a_file_that_cannot_be_read_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(b"\x80\x02N.")

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(DataError, match=r"some\.pkl: could not be read: Permission denied"):
        PickleFile(path)


def test_files_that_are_no_pickles_are_called_what_they_are(tmp_path: Path) -> None:
    for data, reason in {
        b"": "empty",
        b"\xef\xbb\xbf \n<!DOCTYPE html><title>404</title>": "HTML/XML error page.*404",
        b"\x89HDF\r\n\x1a\n": "HDF5",
        b"PK\x03\x04....": "zip",
        b"BZh9....": "bzip2",
        b"(lp0\n.": "no pickle of protocol 2 to 5",
        b"\x1f\x8b\x08\x00garbage": "gzip",
        b"\xfd7zXZ\x00garbage": "xz",
    }.items():
        path = tmp_path / "some.pkl"
        path.write_bytes(data)
        with pytest.raises(DataError, match=reason):
            read_pickle(PickleFile(path))
    with pytest.raises(DataError, match="no such file"):
        PickleFile(tmp_path / "absent.pkl")
