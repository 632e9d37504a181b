"""Folders and names as other programs leave them."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit import files as atomic
from mvkit.errors import DataError, printable
from mvkit.files import (
    check_link,
    format_bytes,
    inspect_file,
    list_files,
    list_folders,
    name_text,
    opening_as_text,
    pointer_problem,
)

PNG = frozenset({".png"})


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def _names(root: Path, levels: int | None = None) -> list[str]:
    return [os.path.relpath(file.path, root) for file in list_files(root, PNG, levels=levels)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        (rb"caf\xe9.png", r"caf\x5cxe9.png"),
        ("café.png".encode(), "café.png"),
        ("cafe\u0301.png".encode(), "cafe\u0301.png"),
        (b"two\nlines\t.png", r"two\x0alines\x09.png"),
        (rb"C:\dir\xylophone.png", r"C:\dir\xylophone.png"),
        ("\u2028.png".encode(), r"\xe2\x80\xa8.png"),
        ("\U0001f400 [b]:rat:.png".encode(), "\U0001f400 [b]:rat:.png"),
    ],
)
def test_names_as_text(name: bytes, text: str) -> None:
    assert name_text(os.fsdecode(name)) == text


@given(
    st.binary(max_size=12) | st.text("\\\\x5ce9é\udce9\n").map(lambda text: text.encode("utf-8", "replace"))
)
def test_the_text_of_a_name_tells_its_bytes(name: bytes) -> None:
    text = name_text(os.fsdecode(name))
    assert text.encode() and "\n" not in text if name else not text
    back = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    assert back == name


def test_messages_can_always_be_encoded() -> None:
    assert str(DataError(f"{Path(os.fsdecode(b'caf' + bytes([0xE9])))}: bad")) == r"caf\xe9: bad"
    assert printable("\ud800 é \udce9") == "\\ud800 é \\udce9"


@pytest.mark.parametrize("links", [{"self": "."}, {"up": ".."}, {"s1": ".", "s2": "."}, {"far": "../.."}])
def test_links_that_lead_up_are_not_followed(tmp_path: Path, links: dict[str, str]) -> None:
    root = tmp_path / "beside" / "root"
    _touch(root, "a/1.png", "2.png")
    _touch(tmp_path, "beside/other/3.png", "4.png")
    for name, target in links.items():
        (root / "a" / name).symlink_to(target)
        (root / name).symlink_to(target)
    assert _names(root) == ["2.png", "a/1.png"]
    assert [path.name for path in list_folders(root)[0]] == ["a"]


def test_a_folder_is_visited_once_by_its_own_name(tmp_path: Path) -> None:
    _touch(tmp_path / "root", "z/1.png", "z/deeper/2.png")
    _touch(tmp_path, "elsewhere/3.png", "elsewhere/4.png")
    (tmp_path / "root/a").symlink_to("z")
    for name in ("m", "n"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to("..")
    expected = ["m/3.png", "m/4.png", "z/1.png", "z/deeper/2.png"]
    assert _names(tmp_path / "root") == expected


def test_levels(tmp_path: Path) -> None:
    _touch(tmp_path, "1.png", "a/2.PNG", "a/b/3.png", "a.b/4.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert _names(tmp_path, 0) == ["1.png"]
    assert _names(tmp_path, 1) == ["1.png", "a/2.PNG", "a.b/4.png"]
    assert _names(tmp_path) == ["1.png", "a/2.PNG", "a/b/3.png", "a.b/4.png"]


def test_the_order_is_that_of_bytes(tmp_path: Path) -> None:
    names = [
        b"B.png",
        b"a.png",
        b"\xc3\xa9.png",
        b"\xe9.png",
        "\U0001f400.png".encode(),
        "\uff00.png".encode(),
    ]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert [os.fsencode(file.path.name) for file in list_files(tmp_path, PNG)] == sorted(names)


def test_what_systems_leave_is_passed_over(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.png", "a/._1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/Thumbs.db")
    _touch(tmp_path, "__MACOSX/a/1.png", "a/@eaDir/1.png/thumb.png", "lost+found/1.png", "desktop.ini")
    assert _names(tmp_path) == ["a/1.png"]
    assert [path.name for path in list_folders(tmp_path)[0]] == ["a"]


def test_names_without_a_file_are_listed_with_the_reason(tmp_path: Path) -> None:
    annex = "../.git/annex/objects/Gx/1.png/1.png"
    advice = "its content was not fetched; run datalad get (or git annex get)"
    links = {
        "a.png": "gone.png", "b.png": annex, "c.png": "c.png", "folder": "/unmounted/x", "notes.txt": "gone",
        "README": "../.git/annex/objects/README", "Mus.musculus": "/unmounted/y",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    found = {file.path.name: file.problem for file in list_files(tmp_path, PNG)}
    assert found == {
        "a.png": "a link to nothing (gone.png)",
        "b.png": f"a link to nothing ({annex}); {advice}",
        "c.png": "a link that cannot be followed (c.png: Too many levels of symbolic links)",
        "folder": "a link to nothing (/unmounted/x)",
        "Mus.musculus": "a link to nothing (/unmounted/y)",
        "pipe.png": "a pipe, not a file",
        "zero.png": "a device, not a file",
    }
    # Only images where folders do not count.
    assert "folder" not in {file.path.name for file in list_files(tmp_path, PNG, levels=0)}
    assert [file.path.name for file in list_folders(tmp_path)[1]] == ["Mus.musculus", "folder"]
    with pytest.raises(DataError, match=r"folder: a link to nothing \(/unmounted/x\)"):
        check_link(tmp_path / "folder")


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s.png")
        assert inspect_file(Path("s.png")).problem == "a socket, not a file"


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a/1.png")
    real = os.scandir

    def deny(folder: Path) -> object:
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"/a: cannot be listed \(Permission denied\)"):
        list_files(tmp_path, PNG)


@pytest.mark.parametrize("name", [b"plain", b"caf\xe9"])
def test_libraries_that_take_text_open_any_file(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content")
    with opening_as_text(path) as text:
        assert text.encode() and Path(text).read_bytes() == b"content"


def test_files_that_stand_for_others() -> None:
    assert pointer_problem(b"/annex/objects/SHA256E-s9--ab.png\n") is not None
    assert pointer_problem(b"version https://git-lfs.github.com/spec/v1\noid") is not None
    assert pointer_problem(b"\x89PNG") is None


def test_leftovers_of_a_name_are_removed_and_no_others(tmp_path: Path) -> None:
    names = {"a[1]*.tmp-1-x.h5": False, "a1b.tmp-1-x.h5": True, "a[1]*.h5": True}
    for name in names:
        (tmp_path / name).write_bytes(b"")
    atomic.remove_leftovers(tmp_path / "a[1]*.h5")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_what_killed_processes_left_of_a_file_goes_when_it_is_written_again(tmp_path: Path) -> None:
    machine, dead, alive = atomic._machine(), 2**22 + 1, os.getppid()
    left = {f"a.tmp-{machine}-{dead}-01234567.h5": False, f"a.tmp-{machine}-{alive}-01234567.h5": True}
    for name in left:
        (tmp_path / name).touch()
    atomic.write_text(tmp_path / "a.h5", "whole")
    assert {name: (tmp_path / name).exists() for name in left} == left


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no room") as caught, atomic.replacing(tmp_path / "a.csv"):
        raise OSError(28, "no room")
    assert caught.value.filename == str(tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [1, 4096, 5000])
def test_any_changed_byte_of_a_file_with_a_checksum_is_noticed(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"x" * n_bytes)
    atomic.check_checksum(path, remedy="none")
    atomic.append_checksum(path)
    whole = path.read_bytes()
    assert whole.startswith(b"x" * n_bytes) and len(whole) % 4096 == 22
    for at in (0, n_bytes // 2, n_bytes - 1, len(whole) - 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        atomic._has_own_checksum.cache_clear()
        with pytest.raises(DataError, match=re.escape(f"{path}: damaged: ") + ".*; extract it again"):
            atomic.check_checksum(path, remedy="extract it again")


def test_text_of_any_name_is_written(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "list.txt", os.fsdecode(b"caf\xe9 \xc3\xbc"))
    assert (tmp_path / "list.txt").read_bytes() == rb"caf\xe9 " + "ü".encode()


@pytest.mark.parametrize(
    "n_bytes, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (228_123_456, "228.1 MB"),
        (9_800_000_000, "9.8 GB"),
        (12_340_000_000_000, "12.3 TB"),
    ],
)
def test_format_bytes(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text
