"""Folders and names as other programs leave them; writing on odd file systems."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit import files as atomic
from mvkit.errors import DataError, UsageError, printable
from mvkit.files import (
    check_link,
    file_lock,
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
    with pytest.raises(OSError, match="No space left") as caught, atomic.replacing(tmp_path / "a.csv"):
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


def test_a_file_with_a_checksum_that_is_open_for_writing_is_not_called_damaged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(9)
    atomic.append_checksum(path)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(flush=True); input()\n"
    code += "f['x'][0] = 9; f.flush(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin and writer.stdout
        writer.stdout.readline()
        atomic.check_checksum(path, remedy="none")  # nothing has changed but the mark
        writer.stdin.write("\n")
        writer.stdin.flush()
        writer.stdout.readline()
        atomic.check_checksum(path, remedy="none")  # what changes it cuts the checksum off
        with pytest.raises(DataError, match=r"a\.h5: another program has it open for writing"):
            atomic.open_hdf5(path)
        writer.stdin.close()
    atomic.check_checksum(path, remedy="none")


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


def _failing(number: int, *, folders: bool | None = None) -> Callable[..., None]:
    """Return a stand-in for a call of the system that fails, perhaps only for folders or only for files."""

    def call(descriptor: int, *rest: object) -> None:
        if folders is None or stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES])
def test_a_share_that_cannot_synchronise_folders(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(number, folders=True))
    atomic.write_text(tmp_path / "a.txt", "text")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "text")]


def test_a_share_that_cannot_synchronise_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EINVAL, folders=False))
    atomic.write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EIO, "input/output error\nthe disk or the network share has failed"),
        (errno.ENOSPC, "no space left on device\nfree some space, or write to another disk"),
        (errno.EDQUOT, "disk quota exceeded\nfree some space, or write to another disk"),
    ],
)
def test_a_disk_that_fails_is_an_error_that_names_the_file(
    number: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", _failing(number, folders=False))
    with pytest.raises(OSError) as caught:
        atomic.write_text(target, "new")
    assert atomic.describe_error(caught.value).startswith(f"{target}: {text}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "names_target"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError("Can't write (file write failed: errno = 28, error message = 'No space left')"), True),
        (OSError(errno.EIO, "Input/output error", "other.png"), False),
        (OSError("Can't read (file read failed: filename = 'other.h5', errno = 5)"), False),
        (OSError("image file is truncated"), False),
    ],
)
def test_errors_of_libraries_get_the_file_that_is_being_written(
    error: OSError, names_target: bool, tmp_path: Path
) -> None:
    with pytest.raises(OSError) as caught, atomic.replacing(tmp_path / "a.h5"):
        raise error
    assert (caught.value.filename == str(tmp_path / "a.h5")) is names_target
    assert names_target or caught.value is error


def test_a_file_that_is_mounted_by_itself_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def busy(source: Path, target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source), None, str(target))

    monkeypatch.setattr(Path, "replace", busy)
    atomic.write_text(target, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "new")]


@pytest.mark.parametrize("target", ["real/old.txt", "real/new.txt", "../linked/real/new.txt", "second.txt"])
def test_what_a_link_leads_to_is_replaced(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "old.txt").write_text("old")
    (folder / "second.txt").symlink_to("real/old.txt")
    (folder / "link.txt").symlink_to(target)
    atomic.check_output_path(folder / "link.txt", overwrite=True, example="x.txt")
    with atomic.file_lock(folder / "link.txt"):
        atomic.write_text(folder / "link.txt", "new")
    assert (folder / "link.txt").is_symlink()
    assert (folder / target).read_text() == "new"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".link.txt.lock",
        "link.txt",
        "real",
        "second.txt",
    ]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("loop", "a link that cannot be followed (loop: Too many levels of symbolic links)"),
        ("gone/a.txt", "a link to nothing (gone/a.txt)"),
        (".git/annex/objects/a", "locked by git-annex\nunlock it: datalad unlock"),
    ],
)
def test_links_that_cannot_be_written_to(target: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("a.txt")
    (tmp_path / "a.txt").symlink_to(target)
    (tmp_path / ".git/annex/objects").mkdir(parents=True)
    (tmp_path / ".git/annex/objects/a").touch()
    for write in (
        partial(atomic.check_output_path, overwrite=True, example="x"),
        partial(atomic.write_text, text=""),
    ):
        with pytest.raises(UsageError) as caught:
            write(tmp_path / "a.txt")
        assert problem in str(caught.value)


def test_a_link_to_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to("disk/home")
    with pytest.raises(UsageError, match=r"home: a link to nothing \(disk/home\)"):
        atomic.check_output_folder(tmp_path / "home/neural")
    (tmp_path / "disk").mkdir()
    atomic.check_output_folder(tmp_path / "home/neural")
    with atomic.file_lock(tmp_path / "home/neural/a.h5"):
        atomic.write_text(tmp_path / "home/neural/a.txt", "text")
    assert (tmp_path / "disk/home/neural/a.txt").read_text() == "text"


@pytest.mark.parametrize("n_bytes", [180, 181, 250, 255])
@pytest.mark.parametrize("letter", ["x", "é", "\udce9"])
def test_names_of_any_length_that_the_system_takes(n_bytes: int, letter: str, tmp_path: Path) -> None:
    stem = letter * ((n_bytes - 4) // len(os.fsencode(letter)))
    target = tmp_path / f"{stem}.txt"
    atomic.check_output_path(target, overwrite=False, example="x.txt")
    with atomic.file_lock(target), atomic.replacing(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("text")
        atomic.temporary_beside(target).touch()
        atomic.temporary_beside(tmp_path / f"{stem[:-1]}y.txt").touch()
    assert target.read_text() == "text"
    atomic.remove_leftovers(target)
    assert len(list(tmp_path.glob("*.tmp-*"))) == 1


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for check in (partial(atomic.check_output_path, overwrite=True, example="x"), atomic.check_output_folder):
        with pytest.raises(UsageError, match="x: file name too long\nmost systems take 255 bytes"):
            check(tmp_path / ("x" * 256))


@pytest.mark.parametrize("name", ["file/x", "file/x/y", "pipe"])
def test_outputs_that_cannot_be_written_are_refused_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for check in (partial(atomic.check_output_path, overwrite=True, example="x"), atomic.check_output_folder):
        with pytest.raises(UsageError, match=f"{name}.*(not a folder|is a pipe)"):
            check(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UsageError) as caught:
        atomic.check_output_folder(tmp_path / "a/b")
    assert str(caught.value) == (
        f"{tmp_path}/a/b: cannot be written: {tmp_path}: read-only file system\nchoose another folder"
    )


def test_locks_keep_others_out_and_wait(tmp_path: Path) -> None:
    first, second = atomic.Lock(tmp_path / "l"), atomic.Lock(tmp_path / "l")
    said: list[str] = []
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire() and second.is_real
    second.release()

    entered = threading.Event()

    def wait() -> None:
        with atomic.file_lock(tmp_path / "a", log=said.append):
            entered.set()

    with atomic.file_lock(tmp_path / "a"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.5)
    thread.join(10)
    assert entered.is_set()
    assert said == ["another mvkit process is working on a: waiting for it to finish"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM])
def test_a_share_without_locks_costs_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", _failing(number))
    for name in ("a", "b"):
        with atomic.file_lock(tmp_path / name):
            pass
    assert len(caplog.records) == 1
    assert f"{tmp_path}: no locks on this file system" in caplog.text
    # What another process may be using is not taken for abandoned.
    (tmp_path / ".lock").touch()
    assert not atomic.is_abandoned(tmp_path)


def test_where_nothing_can_be_written_there_is_nothing_to_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *words: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", refuse)
    with atomic.file_lock(tmp_path / "a"):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_share_that_reserves_no_space(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12")
    monkeypatch.setattr(os, "posix_fallocate", _failing(number))
    atomic.reserve_space(tmp_path / "a", 1000)
    assert (tmp_path / "a").read_bytes() == b"12"
    with pytest.raises(OSError, match="No space left on device"):
        atomic.reserve_space(tmp_path / "a", 10**18)


def test_hdf5_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []

    def opened(path: Path, mode: str, locking: bool | None = None) -> str:
        used.append(locking)
        if locking is None:
            raise OSError(
                "Unable to create (unable to lock file, errno = 37, error message = 'No locks available')"
            )
        return "file"

    monkeypatch.setattr(h5py, "File", opened)
    assert atomic.open_hdf5(tmp_path / "a.h5", "w") == "file"
    assert used == [None, False]


def test_hdf5_that_another_program_writes(tmp_path: Path) -> None:
    path = tmp_path / "sblock.h5"
    program = (
        "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); f['x'] = 1; f.flush(); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DataError) as caught:
            atomic.open_hdf5(path)
        process.communicate(b"\n")
    assert str(caught.value) == (
        f"{path}: another program has it open for writing\n"
        "close it there, or set HDF5_USE_FILE_LOCKING=FALSE to open it all the same"
    )
    with atomic.open_hdf5(path) as file:
        assert file["x"][()] == 1
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OSError, match="truncated file"):
        atomic.open_hdf5(path)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "a.h5"),
            "a.h5: read-only file system\nchoose another folder",
        ),
        (OSError(errno.EACCES, "Permission denied", "a.h5"), "a.h5: permission denied"),
        (
            OSError(errno.EMFILE, "Too many open files", "a"),
            "a: too many open files\nraise the limit of this shell",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle", "a"),
            "a: stale file handle\nthe network share has changed",
        ),
        (
            OSError(
                "Unable to open (name = '/d/x.tmp-ab12cd34-77-0a1b2c3d.h5', errno = 28, error message = 'No')"
            ),
            "/d/x.h5: no space left on device\nfree some space",
        ),
        (OSError("cannot identify image"), "cannot identify image"),
    ],
)
def test_errors_of_the_system_say_file_reason_and_way_out(error: OSError, text: str) -> None:
    assert atomic.describe_error(error).startswith(text)


def test_a_wait_for_another_process_is_logged_whoever_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "sub" / "x.h5"
    with file_lock(target):
        pass
    assert caplog.messages == []
    lock = atomic.Lock(target.with_name(".x.h5.lock"))
    lock.acquire()

    def wait() -> None:
        with file_lock(target):
            pass

    waiting = threading.Thread(target=wait)
    waiting.start()
    for _ in range(100):
        if caplog.messages:
            break
        time.sleep(0.05)
    lock.release()
    waiting.join()
    assert caplog.messages == ["another mvkit process is working on x.h5: waiting for it to finish"]
