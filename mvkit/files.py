"""Files: writing them whole or not at all, locks, checksums, listing folders, names and values as text."""

from __future__ import annotations

import errno
import fcntl
import functools
import glob
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import uuid
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from mvkit.errors import DataError, UsageError, printable, wording

LOGGER = logging.getLogger(__name__)

#: Folders that systems and archives create; their content is not the user's.
SYSTEM_FOLDERS: Final = frozenset(
    {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)
#: Endings of the names of image files.
IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
#: Endings of images that are not read, so that no stimulus is passed over in silence.
_OTHER_IMAGES: Final = frozenset({".avif", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".mpo", ".psd"})
#: Files that an error about a folder names.
_MOST_PROBLEMS: Final = 5
#: Formats of Pillow's that are opened; the others run programs (EPS) or are of no use for pictures.
IMAGE_FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_READS_AS_ESCAPE: Final = re.compile(rb"\\(?=x[0-9a-f]{2})")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_FILE_SUFFIX: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}")
#: Part of the target of every link that git-annex makes.
_ANNEX: Final = "annex/objects/"
#: First bytes of the files that git-annex and Git LFS leave in place of a content that was not fetched.
_POINTERS: Final = {
    b"/annex/objects/": "datalad get (or git annex get)",
    b"version https://git-lfs.github.com/": "git lfs pull",
}
_POINTER_BYTES: Final = 64

_BLOCK_BYTES: Final = 1 << 20
#: The end of HDF5 files that mvkit writes; it begins a block of a disk, so that no damaged one holds both it
#: and what it is about.
_CHECKSUM: Final = re.compile(rb"\nmvkit crc32 ([0-9a-f]{8})\n")
_CHECKSUM_BYTES: Final = 22
_DISK_BLOCK: Final = 4096
#: Byte of an HDF5 file (superblock version 0) that is not 0 while a program has it open for writing.
_OPEN_MARK: Final = 20
#: Contents above this must not be more than so many times as large as what is stored of them.
_LARGE_BYTES: Final = 1 << 30
_MOST_UNPACKED: Final = 200
_LOCK: Final = ".lock"
#: A wait for another process that is not worth a word.
_UNNOTICED_S: Final = 0.3
#: After this, the process of a temporary file is taken for dead, also on another machine.
_ABANDONED_S: Final = 24 * 3600.0
_TEMPORARY: Final = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(?:\.|$)")
#: Bytes of a file's name, of which systems take 255, that leave room for what is added.
_NAME_BYTES: Final = 180

#: What file systems (network shares, FUSE) answer to a call that they do not have.
_LACKING: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY})
#: ... to fsync of a folder, on top of that.
_LACKING_FOLDER_SYNC: Final = _LACKING | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
#: ... to a lock.
_LACKING_LOCKS: Final = _LACKING | {errno.ENOLCK, errno.EPERM, errno.EBADF}
#: No lock can be made where nothing can be written, which the writing itself will say.
_NOTHING_TO_LOCK: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: A lock is held by another process.
_LOCKED: Final = frozenset({errno.EAGAIN, errno.EACCES})
#: A file that is mounted by itself, as into containers, cannot be replaced, only filled.
_NOT_REPLACEABLE: Final = frozenset({errno.EBUSY, errno.EXDEV})

#: What to do about errors of the system.
_REMEDIES: Final = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "the file system or `ulimit -f` allows no larger file: write to another disk",
    errno.EROFS: "choose another folder",
    errno.ENAMETOOLONG: "most systems take 255 bytes: choose a shorter name",
    errno.EMFILE: "raise the limit of this shell: ulimit -n 4096",
    errno.EIO: "the disk or the network share has failed: try again, or use another one",
    errno.ESTALE: "the network share has changed meanwhile: run the command again",
    errno.ENOLCK: "the file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE, or use another folder",
}
#: How HDF5 words the system's errors.
_HDF5_ERROR: Final = re.compile(r"errno = (\d+)")
_HDF5_NAME: Final = re.compile(r"name = '(.*?)'")

#: Device and inode of a folder, or its real path.
FolderId = tuple[int, int] | str


@dataclass(frozen=True)
class ListedFile:
    """A file of a folder.

    Attributes
    ----------
    path
        As it was reached from the folder.
    n_bytes
        Its size.
    problem
        Why there is nothing to read; empty where there is.
    """

    path: Path
    n_bytes: int
    problem: str = ""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``target`` when the block succeeds.

    What killed processes left half-written of it is removed.

    Parameters
    ----------
    target
        Final path. Its directory is created. An existing file is replaced; of a link, the file that it
        leads to.

    Yields
    ------
    Path
        A path in the same directory, with the same suffix, not yet existing.

    Raises
    ------
    OSError
        Names ``target``, also where a library has raised it without a file.
    """
    final = follow_link(target)
    make_folder(final.parent)
    _remove_abandoned(final)
    temporary = temporary_beside(final)
    try:
        with naming_file(target, instead_of=temporary):
            yield temporary
            move_durably(temporary, final)
    finally:
        # A share that has vanished is the error above.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def naming_file(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """Give the system's errors of a block the name of a file: those of a failing write have none.

    Errors that name another file than ``instead_of``, and those of a network, stay what they are.
    """
    try:
        yield
    except OSError as error:
        number, named = error_number(error), _named_file(error)
        is_network = isinstance(error, ConnectionError | TimeoutError)
        if number is None or is_network or named not in ("", str(instead_of or "")):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Put the file's name before the message of every :class:`DataError` that lacks it."""
    try:
        yield
    except DataError as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def move_durably(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` in the same directory so that a power cut cannot lose or mix them."""
    with naming_file(target):
        _synchronise_path(source)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno not in _NOT_REPLACEABLE:
                raise
            shutil.copyfile(source, target)
            source.unlink()
        # A folder may be written to and not be listed.
        with suppress(PermissionError):
            _synchronise_path(target.parent)


def _synchronise_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        synchronise(descriptor)
    finally:
        os.close(descriptor)


def synchronise(descriptor: int) -> None:
    """Bring an open file or folder to the disk, where the file system can; else a power cut may lose it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if error.errno not in (_LACKING_FOLDER_SYNC if is_folder else _LACKING):
            raise


def reserve_space(path: Path, n_bytes: int) -> None:
    """Check that an existing file can grow by so many bytes; its size stays.

    Raises
    ------
    OSError
        If there is no room.
    """
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if not hasattr(os, "posix_fallocate"):  # macOS
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            os.posix_fallocate(file.fileno(), 0, size + n_bytes)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            if shutil.disk_usage(path).free < n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        os.ftruncate(file.fileno(), size)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; of links, the folders that they lead to.

    Raises
    ------
    OSError
        If it cannot be made.
    UsageError
        If a link cannot be followed; see :func:`follow_link`.
    """
    try:
        _follow_links(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


def _follow_links(folder: Path) -> Path:
    """Return the path of a folder without links; neither it nor those above need exist."""
    for one in (*reversed(folder.parents), folder):
        follow_link(one)
    return Path(os.path.realpath(folder))


def follow_link(path: Path) -> Path:
    """Return the path that a link leads to, which need not exist yet; other paths as they are.

    Raises
    ------
    UsageError
        If the link leads into a circle, into a folder that does not exist (a disk that is not mounted), or to
        a file that git-annex has locked.
    """
    if not path.is_symlink():
        return path
    final = Path(os.path.realpath(path))
    if final.is_symlink() or not final.parent.is_dir():
        raise UsageError(f"{path}: {inspect_file(path).problem}\nrestore what it leads to, or remove it")
    if _ANNEX in final.as_posix():
        raise UsageError(f"{path}: locked by git-annex\nunlock it: datalad unlock (or git annex unlock)")
    return final


def write_text(target: Path, text: str) -> None:
    r"""Write UTF-8 text to ``target`` atomically; bytes of names that are none are written ``\xNN``."""
    with replacing(target) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def check_output_path(target: Path, *, overwrite: bool, example: str) -> None:
    """Check that an output can be written, before the work.

    Parameters
    ----------
    target
        The file to be written.
    overwrite
        Allow an existing file.
    example
        A file name for the message about a folder.

    Raises
    ------
    UsageError
        If it exists, is no file, or its folder cannot be written to; with the way out.
    """
    _check_name(target)
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; give a file name, such as {target / example}")
    if target.exists() and not overwrite:
        raise UsageError(
            f"{target}: exists already; choose another name, or overwrite it "
            + wording("(--force)", "(overwrite=True)")
        )
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: is {inspect_file(target).problem}")
    _check_can_write(target, follow_link(target).parent)


def check_output_folder(folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet, before the work.

    Raises
    ------
    UsageError
        If it cannot be made or written to, or is a file.
    """
    _check_name(folder)
    if folder.exists() and not folder.is_dir():
        kind = inspect_file(folder).problem.removesuffix(", not a file") or "a file"
        raise UsageError(f"{folder} is {kind}; give a folder")
    _check_can_write(folder, folder)


def _check_name(target: Path) -> None:
    """Check that the system can look a path up at all; it may be missing."""
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UsageError(describe_error(error)) from error


def _check_can_write(target: Path, folder: Path) -> None:
    """Try to write where a folder is, or is to be made: permissions do not tell (read-only, root, /proc)."""
    real = _follow_links(folder)
    existing = next(one for one in (real, *real.parents) if one.exists())
    problem, remedy = "not a folder", "choose another folder"
    try:
        if existing.is_dir():
            with tempfile.TemporaryFile(dir=existing):
                return
    except OSError as error:
        problem, remedy = _lower(error.strerror or str(error)), _REMEDIES.get(error.errno or 0, remedy)
    raise UsageError(f"{target}: cannot be written: {existing}: {problem}\n{remedy}")


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, also of one that HDF5 has worded; None if it has none."""
    match = _HDF5_ERROR.search(str(error))
    return int(match[1]) if match else getattr(error, "errno", None)


def describe_error(error: OSError) -> str:
    """Return ``x.png: permission denied``: the file as it was named, the system's reason, the way out."""
    name, number = re.sub(r"\.tmp-[0-9a-f]+-\d+-[0-9a-f]+", "", _named_file(error)), error_number(error)
    reason = os.strerror(number) if number else error.strerror or str(error)
    remedy = _REMEDIES.get(number or 0)
    return (f"{name}: " if name else "") + _lower(reason) + (f"\n{remedy}" if remedy else "")


def _named_file(error: OSError) -> str:
    """Return the file that an error names; "" if it names none."""
    match = _HDF5_NAME.search(str(error))
    return str(error.filename or "") or (match[1] if match else "")


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


def open_hdf5(path: Path, mode: str = "r", **options: Any) -> Any:
    """Open an HDF5 file (``h5py.File``), also where the file system has no locks.

    Parameters
    ----------
    path, mode, options
        As of ``h5py.File``.

    Raises
    ------
    DataError
        If another program has it open for writing; if it is read and is empty, or a pointer of git-annex.
    OSError
        If it cannot be opened for another reason.
    """
    import h5py

    try:
        return h5py.File(path, mode, **options)
    except OSError as error:
        is_lock = "unable to lock file" in str(error)
        if is_lock and error_number(error) in _LACKING_LOCKS:
            return h5py.File(path, mode, locking=False, **options)
        if "h5clear" in str(error):
            raise DataError(
                f"{path}: another program has it open for writing, or ended without closing it\n"
                f"close it there; if nothing has it open: h5clear -s {path}"
            ) from error
        if not is_lock:
            if mode == "r" and (problem := _absent_content(path)):
                raise DataError(f"{path}: {problem}") from error
            raise
        raise DataError(
            f"{path}: another program has it open for writing\n"
            "close it there, or set HDF5_USE_FILE_LOCKING=FALSE to open it all the same"
        ) from error


def _absent_content(path: Path) -> str | None:
    """Return why a file holds nothing of what its name says; None if it does, or cannot be opened."""
    try:
        with path.open("rb") as file:
            first = file.read(_POINTER_BYTES)
    except OSError:
        return None
    return pointer_problem(first) if first else "an empty file"


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files of ``target`` that killed processes left; the caller holds its lock."""
    target = follow_link(target)
    stem, suffix = _parts(target)
    for leftover in target.parent.glob(f"{glob.escape(stem)}.tmp-*{glob.escape(suffix)}"):
        leftover.unlink(missing_ok=True)


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary files of ``target``, of any suffix, whose processes are gone."""
    for earlier in target.parent.glob(f"{glob.escape(_parts(target)[0])}.tmp-*"):
        if is_leftover(earlier):
            earlier.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    """Return a path in the same folder that no other process uses, with the same suffix."""
    stem, suffix = _parts(target)
    mark = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return target.with_name(f"{stem}.tmp-{mark}{suffix}")


def _parts(target: Path) -> tuple[str, str]:
    """Return stem and suffix of a name; long ones are cut, so that something can be added to them."""
    if len(os.fsencode(target.name)) <= _NAME_BYTES:
        return target.stem, target.suffix
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    beginning = os.fsencode(target.name)[: _NAME_BYTES // 2].decode("utf-8", "ignore")
    return f"{beginning}-{digest}", target.suffix if len(os.fsencode(target.suffix)) < 20 else ""


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder of this name is, or was, being written."""
    return _TEMPORARY.search(name) is not None


def is_leftover(path: Path) -> bool:
    """Tell whether the process that was writing a file is gone.

    A file of another machine counts as left over after a day.
    """
    match = _TEMPORARY.search(path.name)
    if match is None:
        return False
    machine, process = match.groups()
    if machine == _machine() and not _runs(int(process)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except OSError:
        return False


class Lock:
    """An exclusive lock of the system on a file; released when its holder dies, however it dies.

    Where the file system has no locks, everybody gets it, which is logged once a folder: files are still
    written whole or not at all, but nobody waits for anybody.

    Attributes
    ----------
    is_real
        Whether it is held, and keeps others out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.is_real = False

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; return False if another holds it and there is to be no waiting.

        Raises
        ------
        OSError
            If the file cannot be made, though its folder can be written to.
        """
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _NOTHING_TO_LOCK:
                raise
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.is_real = True
        except BaseException as error:
            number = getattr(error, "errno", None)
            if number not in _LACKING_LOCKS:
                self.release()
                if number in _LOCKED:
                    return False
                raise
            _warn_of_no_locks(self._path.parent, _lower(os.strerror(number)))
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._descriptor is not None:
            # Children that were forked meanwhile hold the file open, too.
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
        self._descriptor, self.is_real = None, False


@functools.cache
def _warn_of_no_locks(folder: Path, reason: str) -> None:
    LOGGER.warning(
        "%s: no locks on this file system (%s): do not run two commands that write there at once",
        folder, reason,
    )  # fmt: skip


def is_abandoned(folder: Path) -> bool:
    """Tell whether a folder has a lock, ``.lock`` in it, that nobody holds."""
    if not (folder / _LOCK).is_file():
        return False
    lock = Lock(folder / _LOCK)
    try:
        lock.acquire()
        return lock.is_real
    except OSError:
        return False
    finally:
        lock.release()


@contextmanager
def file_lock(target: Path, *, log: Callable[[str], None] = LOGGER.warning) -> Iterator[None]:
    """Hold the lock of ``target``; wait while another process has it.

    Parameters
    ----------
    target
        File that is going to be made or changed; its directory is created.
    log
        Called once if there is a wait that somebody would notice.
    """
    make_folder(target.parent)
    lock = Lock(target.with_name(f".{''.join(_parts(target))}.lock"))
    if not lock.acquire():
        time.sleep(_UNNOTICED_S)
        if not lock.acquire():
            log(f"another mvkit process is working on {target.name}: waiting for it to finish")
            lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: Path, *, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; ``progress`` is called with (bytes read, size)."""
    return file_digests(path, ("sha256",), progress=progress)["sha256"]


def file_digests(
    path: Path, algorithms: Sequence[str], *, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """Read a file once and return its checksums in hexadecimal.

    Parameters
    ----------
    path
        File to read.
    algorithms
        Names that :mod:`hashlib` knows.
    progress
        Called with (bytes read, size).
    """
    # MD5 is a server's checksum, not a protection against forgery.
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            for digest in hashes.values():
                digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def append_checksum(path: Path) -> None:
    """Append the CRC-32 of a finished HDF5 file, behind what HDF5 reads, for :func:`check_checksum`.

    HDF5 itself has checksums of some of its parts only. A library that changes the file cuts this one off.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with naming_file(path), path.open("r+b") as file:
        size = -(-path.stat().st_size // _DISK_BLOCK) * _DISK_BLOCK
        file.truncate(size)
        crc = _crc32(file, size)
        file.write(b"\nmvkit crc32 %08x\n" % crc)


def check_checksum(path: Path, *, remedy: str) -> None:
    """Check a file that may end in a checksum of :func:`append_checksum`, once in a process.

    Parameters
    ----------
    path
        An HDF5 file; one without a checksum passes.
    remedy
        What to do about a damaged file.

    Raises
    ------
    DataError
        If a byte of it has changed.
    """
    status = path.stat()
    if not _has_own_checksum(path, status.st_ino, status.st_size, status.st_mtime_ns):
        raise DataError(
            f"{path}: damaged: it has changed since mvkit wrote it (its CRC-32 differs); {remedy}"
        )


@functools.lru_cache
def _has_own_checksum(path: Path, inode: int, size: int, modified_ns: int) -> bool:
    if size <= _CHECKSUM_BYTES:
        return True
    with path.open("rb") as file:
        file.seek(size - _CHECKSUM_BYTES)
        match = _CHECKSUM.fullmatch(file.read())
        return match is None or int(match[1], 16) == _crc32(file, size - _CHECKSUM_BYTES)


def _crc32(file: IO[bytes], n_bytes: int) -> int:
    """Return the CRC-32 of the first bytes of an HDF5 file, its open mark as 0, and stay behind them."""
    file.seek(0)
    start = file.read(_OPEN_MARK)
    crc = zlib.crc32(start + bytes(len(file.read(1))))
    n_bytes -= _OPEN_MARK + 1
    while n_bytes and (block := file.read(min(_BLOCK_BYTES, n_bytes))):
        crc, n_bytes = zlib.crc32(block, crc), n_bytes - len(block)
    return crc


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a JSON document; equal contents give equal digests."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def list_image_folder(folder: Path) -> list[Path]:
    """Return the images directly inside a folder, in natural order (``frame2`` before ``frame10``).

    Raises
    ------
    DataError
        If there is none; or one is empty, a link to nothing, a pipe, or of a kind that is not read.
    """
    listed = list_files(folder, IMAGE_SUFFIXES | _OTHER_IMAGES, levels=0)
    problems = {
        file.path: f"{file.path.suffix} files are not read; convert it to .png"
        if file.path.suffix.lower() in _OTHER_IMAGES
        else file.problem or "an empty file"
        for file in listed
        if not file.n_bytes or file.path.suffix.lower() in _OTHER_IMAGES
    }
    if problems:
        shown = [f"{path}: cannot be read as an image: {why}" for path, why in problems.items()]
        more = [f"... and {len(shown) - _MOST_PROBLEMS} more"] if len(shown) > _MOST_PROBLEMS else []
        raise DataError("\n".join([*shown[:_MOST_PROBLEMS], *more, "restore or remove them"]))
    if not listed:
        looked_for = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: no images directly inside this folder (looked for {looked_for})")
    return sorted((file.path for file in listed), key=lambda path: natural_key(path.name))


def list_files(
    folder: Path,
    suffixes: Container[str],
    *,
    levels: int | None = None,
    claimed: dict[FolderId, Path] | None = None,
) -> list[ListedFile]:
    """Return the files in a folder whose names end in one of some suffixes, sorted by the bytes of paths.

    Hidden files and folders, and :data:`SYSTEM_FOLDERS`, are passed over. A folder to which two paths lead
    is visited once, by the one without links if there is such a one. Links to nothing count if they are
    named like such a file or, as they may stand for a folder, like no file at all.

    Parameters
    ----------
    folder
        Where to look.
    suffixes
        In lower case, with the dot; upper case in names counts too.
    levels
        How deep to look: 0 is the folder itself, None everything in it.
    claimed
        Folders that belong to something else, such as another class, which must not be in this one as well;
        those that are visited are added.

    Raises
    ------
    DataError
        If a folder cannot be listed, or one that is claimed is in this one.
    """
    files: list[ListedFile] = []
    visited: set[FolderId] = set()
    waiting = deque([(folder, 0)])
    while waiting:
        current, level = waiting.popleft()
        folder_id = _folder_id(current)
        if folder_id in visited:
            continue
        visited.add(folder_id)
        if claimed is not None:
            if folder_id in claimed:
                raise DataError(
                    f"{claimed[folder_id]} and {current} are the same folder: "
                    "its files would be in two classes\nremove one of the two names"
                )
            claimed[folder_id] = current
        is_deepest = levels is not None and level >= levels
        for entry in _entries(current):
            path = Path(entry.path)
            if _is_folder(entry):
                # Links are visited after all folders that are reached without one.
                if not is_deepest and not entry.is_symlink():
                    waiting.appendleft((path, level + 1))
                elif not is_deepest and not _links_to_parent(entry, current):
                    waiting.append((path, level + 1))
            elif _has_suffix(entry.name, suffixes) or (not is_deepest and _may_be_missing_folder(entry)):
                files.append(inspect_file(path))
    return sorted(files, key=lambda file: _sort_key(file.path))


def list_folders(folder: Path) -> tuple[list[Path], list[ListedFile]]:
    """Return the folders directly in a folder, sorted by name, and links that may stand for missing ones.

    Hidden folders, :data:`SYSTEM_FOLDERS`, and links that lead up to a folder around them are passed over.

    Raises
    ------
    DataError
        If the folder cannot be listed.
    """
    entries = list(_entries(folder))
    inner = [entry for entry in entries if _is_folder(entry)]
    folders = [
        Path(entry.path) for entry in inner if not (entry.is_symlink() and _links_to_parent(entry, folder))
    ]
    missing = [inspect_file(Path(entry.path)) for entry in entries if _may_be_missing_folder(entry)]
    return sorted(folders, key=_sort_key), sorted(missing, key=lambda file: _sort_key(file.path))


def natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return the key that sorts names with their numbers by value: ``frame2`` before ``frame10``."""
    # The same order whatever the system's encoding.
    name = os.fsencode(name).decode("utf-8", "surrogateescape")
    pieces = re.findall(r"(\D*)([0-9]*)", name.lower())
    return [(text, int(digits) if digits else -1) for text, digits in pieces], name


def inspect_file(path: Path) -> ListedFile:
    """Return a file's size, or what is wrong with it, without opening it (a pipe would block)."""
    try:
        status = path.stat()
    except OSError as error:
        return ListedFile(path, 0, _missing_reason(path, error))
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    return ListedFile(path, 0, f"{kind}, not a file") if kind else ListedFile(path, status.st_size)


def check_link(path: Path) -> None:
    """Check that a path is no link to nothing; it may be missing altogether.

    Raises
    ------
    DataError
        Names link and target.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: {inspect_file(path).problem}\nrestore what it leads to, or remove it")


def pointer_problem(content: bytes) -> str | None:
    """Return what is wrong with a pointer file of git-annex or Git LFS; None for other files."""
    for beginning, command in _POINTERS.items():
        if content.startswith(beginning):
            return f"its content was not fetched; run {command}"
    return None


def name_text(name: str | os.PathLike[str]) -> str:
    r"""Return a name or path as one line of text that can be encoded; another name has another text.

    Bytes that are no UTF-8, control characters and line ends become ``\xNN`` for each of their bytes, a
    backslash in front of ``xNN`` becomes ``\x5c``; all else stays.
    """
    raw = _READS_AS_ESCAPE.sub(rb"\\x5c", _name_bytes(name))
    return _CONTROL.sub(_escape, raw.decode("utf-8", "backslashreplace"))


@contextmanager
def opening_as_text(path: Path, mode: str = "rb") -> Iterator[str]:
    """Yield a path for libraries that take text only: the file's own, or that of its open descriptor."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open(mode) as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def check_self_contained(file: Any, *, apart_from: str = "") -> None:
    """Check that an open HDF5 file leads to no other file: no link, virtual dataset or external storage.

    Parameters
    ----------
    file
        h5py.File.
    apart_from
        Group that is not looked at, since nothing of it is read.

    Raises
    ------
    DataError
        Names the link or dataset; not the file.
    """
    import h5py

    def lies_elsewhere(name: str, node: Any) -> str | None:
        is_elsewhere = isinstance(node, h5py.Dataset) and (node.is_virtual or node.external)
        return name if is_elsewhere and not (apart_from and name.startswith(apart_from)) else None

    def leads_elsewhere(name: bytes, link: Any) -> str | None:
        text = name.decode("utf-8", "backslashreplace")
        is_external = link.type == h5py.h5l.TYPE_EXTERNAL
        return text if is_external and not (apart_from and text.startswith(apart_from)) else None

    if name := file.id.links.visit(leads_elsewhere, info=True) or file.visititems(lies_elsewhere):
        raise DataError(
            f"'{name_text(name)}' lies in another file, which is not opened: "
            "copy it into this one (h5repack, or h5py's File.copy with expand_external=True)"
        )


def check_unpacked(n_bytes: int, n_stored: int, what: str) -> None:
    """Check that contents are not vastly larger than what a file stores of them, as those of a bomb are.

    Raises
    ------
    DataError
        Beyond 1 GiB and 200 times as much.
    """
    if n_bytes > _LARGE_BYTES and n_bytes > _MOST_UNPACKED * n_stored:
        raise DataError(
            f"{what} would take {format_bytes(n_bytes)} of memory, and the file stores "
            f"{format_bytes(n_stored)} of it: damaged, or made to fill the memory"
        )


def check_unpacked_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Check every member of a zip archive as :func:`check_unpacked` does, before one is read."""
    for member in archive.infolist():
        what = f"{path}: '{name_text(member.filename)}'"
        check_unpacked(member.file_size, member.compress_size, what)


def check_unpacked_dataset(dataset: Any, what: str) -> None:
    """Check an ``h5py.Dataset`` as :func:`check_unpacked` does, before it is read."""
    check_unpacked(dataset.nbytes, dataset.id.get_storage_size(), what)


@contextmanager
def opening_image(file: Any) -> Iterator[Any]:
    """Open an image with Pillow, in one of :data:`IMAGE_FORMATS`.

    Parameters
    ----------
    file
        Path, or file open for reading.

    Yields
    ------
    PIL.Image.Image

    Raises
    ------
    PIL.Image.DecompressionBombError
        Of more than ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million), where Pillow by itself only warns.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=IMAGE_FORMATS)
        except Image.DecompressionBombWarning as error:
            raise Image.DecompressionBombError(str(error)) from error
    with image:
        yield image


def format_bytes(n_bytes: int) -> str:
    """Return a byte count in decimal units with one decimal, such as ``9.8 GB``."""
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size = float(n_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def plain(value: object) -> Any:
    r"""Convert a value to types of JSON: numpy scalars and arrays, tuples, mappings; NaN becomes None.

    Anything else, such as a path, becomes its text; bytes of names that are no UTF-8 become ``\xNN``. Needs
    no numpy itself.
    """
    if hasattr(value, "tolist"):
        # A numpy scalar gives a number, an array nested lists.
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {printable(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return printable(str(value))


def split_names(names: Sequence[str] | str | None) -> list[str] | None:
    """Return names as a list: ``"VISp,VISl"`` is two; None stays None.

    A regular expression (``re:...``) stays whole, as commas mean something in it.

    Raises
    ------
    UsageError
        If they are no text, or there is none.
    """
    if names is None:
        return None
    if isinstance(names, str):
        names = [names] if names.startswith("re:") else names.split(",")
    listed = [name.strip() if isinstance(name, str) else name for name in names]
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise UsageError(f"names of layers or areas are text, one or more, got {listed!r}")
    return listed


def shorten(value: object, longest: int) -> str:
    """Return the text of a value, cut to ``longest`` characters with ``...`` at the end."""
    text = str(plain(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It runs, and is somebody else's.
        return True
    return True


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, without hidden ones and those of systems, sorted."""
    try:
        with os.scandir(folder) as iterator:
            entries = list(iterator)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror or error})") from error
    yield from sorted(
        (entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS),
        key=lambda entry: _sort_key(entry.name),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link in a circle; looked at as a file.
        return False


def _folder_id(folder: Path) -> FolderId:
    try:
        status = folder.stat()
    except OSError:
        return os.path.realpath(folder)
    # Some network file systems number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _links_to_parent(link: os.DirEntry[str], folder: Path) -> bool:
    """Tell whether a link in a folder leads to that folder or one around it, by its path or its real path."""
    target = _folder_id(Path(link.path))
    parents = {
        parent for start in (folder.absolute(), folder.resolve()) for parent in (start, *start.parents)
    }
    return any(_folder_id(parent) == target for parent in parents)


def _has_suffix(name: str, suffixes: Container[str]) -> bool:
    """Tell whether a name ends in one of some suffixes, whatever their case."""
    return Path(name).suffix.lower() in suffixes


def _may_be_missing_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a link to nothing and named like no file: a folder may be missing."""
    path = Path(entry.path)
    if not entry.is_symlink() or path.exists():
        return False
    return _FILE_SUFFIX.fullmatch(path.suffix) is None and _ANNEX not in _link_target(path)


def _missing_reason(path: Path, error: OSError) -> str:
    if not path.is_symlink():
        return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    target = _link_target(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        advice = f"; {pointer_problem(b'/annex/objects/')}" if _ANNEX in target else ""
        return f"a link to nothing ({name_text(target)}){advice}"
    return f"a link that cannot be followed ({name_text(target)}: {error.strerror or error})"


def _link_target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _sort_key(name: str | os.PathLike[str]) -> bytes:
    """Return the key by which paths are sorted: the bytes of their names, folder by folder."""
    return _name_bytes(name).replace(b"/", b"\0")


def _name_bytes(name: str | os.PathLike[str]) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        # Not a name of this system's: a text, or one of another encoding.
        return os.fspath(name).encode("utf-8", "surrogatepass")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match.group().encode())
