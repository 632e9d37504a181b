"""Files: writing them whole or not at all, locks, checksums, listing folders, names and values as text."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import platform
import re
import stat
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from mvkit.errors import DataError, UsageError, printable, wording

#: Folders that systems and archives create; their content is not the user's.
SYSTEM_FOLDERS: Final = frozenset(
    {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)
#: Endings of the names of image files.
IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
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

_BLOCK_BYTES: Final = 1 << 20
#: Contents above this must not be more than so many times as large as what is stored of them.
_LARGE_BYTES: Final = 1 << 30
_MOST_UNPACKED: Final = 200
_LOCK: Final = ".lock"
#: After this, the process of a temporary file is taken for dead, also on another machine.
_ABANDONED_S: Final = 24 * 3600.0
_TEMPORARY: Final = re.compile(r"\.(?:tmp|old)-(?:([0-9a-f]{8})-)?(\d+)-[0-9a-f]{8}(?:\.|$)")

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

    Parameters
    ----------
    target
        Final path. Its directory is created. An existing file is replaced.

    Yields
    ------
    Path
        A path in the same directory, with the same suffix, not yet existing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        yield temporary
        move_durably(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def move_durably(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` in the same directory so that a power cut cannot lose or mix them."""
    _flush(source)
    source.replace(target)
    _flush(target.parent)


def write_text(target: Path, text: str) -> None:
    r"""Write UTF-8 text to ``target`` atomically; bytes of names that are none are written ``\xNN``."""
    with replacing(target) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def check_output_path(target: Path, *, overwrite: bool, example: str) -> None:
    """Check that an output does not exist already, and is no folder.

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
        With the way out.
    """
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; give a file name, such as {target / example}")
    if target.exists() and not overwrite:
        raise UsageError(
            f"{target}: exists already; choose another name, or overwrite it "
            + wording("(--force)", "(overwrite=True)")
        )


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files of ``target`` that killed processes left; the caller holds its lock."""
    for leftover in target.parent.glob(f"{glob.escape(target.stem)}.tmp-*{glob.escape(target.suffix)}"):
        leftover.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    """Return a path in the same folder that no other process uses, with the same suffix."""
    mark = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return target.with_name(f"{target.stem}.tmp-{mark}{target.suffix}")


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


def is_abandoned(folder: Path) -> bool:
    """Tell whether a folder has a lock, ``.lock`` in it, that nobody holds."""
    lock = folder / _LOCK
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


@contextmanager
def file_lock(target: Path, *, log: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lock of ``target``; wait while another process has it.

    The system releases the lock when its holder dies, however it dies.

    Parameters
    ----------
    target
        File that is going to be made or changed; its directory is created.
    log
        Called once if there is a wait.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"another mvkit process is working on {target.name}: waiting for it to finish")
        lock.acquire(poll_interval=0.2)
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


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a JSON document; equal contents give equal digests."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
