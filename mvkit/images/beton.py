"""Beton files (FFCV's format): layout, writing, checking and reading back."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from mvkit import files
from mvkit.errors import DataError, MissingPackageError
from mvkit.files import sha256_of

FORMAT_VERSION: Final = 2
IMAGE, LABEL, INDEX, DEPTH = "image", "label", "index", "depth"
NO_LABEL: Final = -1

#: ``mode`` of an image's metadata.
JPEG_MODE, RAW_MODE = 0, 1

#: The file stores an image's sides in 16 bits.
MOST_PX: Final = 65535
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", (1024,))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE_ROW = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
INT_ROW = np.dtype("<i8")
BYTES_ROW = np.dtype([("ptr", "<u8"), ("size", "<u8")])

#: FFCV's numbers of the field types, and the metadata of each.
TYPE_IDS: Final = {IMAGE: 2, LABEL: 1, INDEX: 1, DEPTH: 3}
_ROWS: Final = {IMAGE: IMAGE_ROW, LABEL: INT_ROW, INDEX: INT_ROW, DEPTH: BYTES_ROW}
_NAME_BYTES: Final = 16
_DEPTH_HEADER = np.dtype("<u2")

#: Bytes before the pixels of a depth map.
DEPTH_HEADER_BYTES: Final = 8
FORMAT: Final = "mvkit-beton"

#: FFCV states its version in the package's metadata only.
PACKAGE = "ffcv"
INSTALL_COMMAND = "python scripts/install_ffcv.py"
_CHUNK_IMAGES: Final = 64
_MOST_LISTED: Final = 10
_AGAIN = "write it again with `mvkit prep`"


class _SidecarPart(BaseModel):
    # Files of later versions may have more keys.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Failure(_SidecarPart):
    """An image that could not be read and was left out."""

    path: str
    reason: str


class SourceRecord(_SidecarPart):
    """The images that a file was made from.

    Attributes
    ----------
    kind
        Name of the source's layout.
    listing_digest
        sha256 over names and sizes of all files, in order.
    content_digest
        sha256 over the sha256 of every file that was read, in order.
    n_files, n_bytes
        Of the files that belong to this split.
    """

    kind: str
    listing_digest: str
    content_digest: str
    n_files: int
    n_bytes: int


class StorageFormat(_SidecarPart):
    """How images are stored; heights and widths (smallest, greatest) in px."""

    format: Literal["raw", "jpeg"]
    jpeg_quality: int | None
    short_side_px: int | None
    heights: tuple[int, int]
    widths: tuple[int, int]


class Sidecar(_SidecarPart):
    """The description of a ``.beton``, in a file beside it.

    Attributes
    ----------
    n_bytes
        Size of the file.
    sha256
        Of the whole file: changes with any bit.
    structure_sha256
        Of header, fields, metadata and allocation table: read in a moment.
    classes, counts
        Names of the classes (None without labels) and images of each.
    failures
        Images that were left out.
    crops
        How crops change by storing images small, see :mod:`mvkit.images.prep`.
    digest
        sha256 of everything else here; empty before it is written.
    """

    format: Literal["mvkit-beton"] = FORMAT
    version: Literal[1] = 1
    split: str
    n_images: int
    n_bytes: int
    sha256: str
    structure_sha256: str
    has_depth: bool
    classes: tuple[str, ...] | None
    counts: tuple[int, ...] | None
    stored: StorageFormat
    source: SourceRecord
    recipe: Mapping[str, Any]
    recipe_digest: str
    failures: tuple[Failure, ...] = ()
    crops: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = {}
    digest: str = ""


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes
    ----------
    name, label
        Of the item.
    mode
        :data:`RAW_MODE` or :data:`JPEG_MODE`.
    height, width
        As stored, in px.
    source_height, source_width
        Of the original, in px.
    content
        The image's bytes.
    depth
        The depth map's bytes (:func:`pack_depth`), or None.
    sha256
        Of the files' content.
    """

    name: str
    label: int
    mode: int
    height: int
    width: int
    source_height: int
    source_width: int
    content: bytes
    depth: bytes | None
    sha256: bytes


@dataclass(frozen=True)
class Structure:
    """Everything in a ``.beton`` but the pages.

    Attributes
    ----------
    path
        The file.
    n_images, page_bytes, table_at
        Of the header; ``table_at`` is where the allocation table begins.
    names
        The fields' names.
    rows
        Metadata (n_images,): columns f0, f1, ... in the order of ``names``.
    table
        Allocations: sample_id, ptr, size.
    sha256
        Over header, fields, metadata and table.
    """

    path: Path
    n_images: int
    page_bytes: int
    table_at: int
    names: tuple[str, ...]
    rows: NDArray[Any]
    table: NDArray[Any]
    sha256: str

    @property
    def has_depth(self) -> bool:
        """Whether there is a depth map for every image."""
        return DEPTH in self.names

    def column(self, name: str) -> NDArray[Any]:
        """Return a field's metadata, (n_images,)."""
        column: NDArray[Any] = self.rows[f"f{self.names.index(name)}"]
        return column


@dataclass(frozen=True)
class VerifyReport:
    """A ``.beton`` that was read completely; ``with_ffcv``: also by FFCV's own reader."""

    path: str
    n_images: int
    n_bytes: int
    sha256: str
    classes: int | None
    with_ffcv: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class BetonContent:
    """A beton's tables; the images themselves stay in the mapped file.

    Attributes
    ----------
    path
        The file.
    memory
        uint8 (n_bytes,): the file, mapped read-only.
    locations
        int64 (n_images, 3): position of an image's first byte, its height and width in px.
    sizes
        int64 (n_images,): bytes of each image.
    is_jpeg
        bool (n_images,): a JPEG, or else raw pixels.
    labels
        int64 (n_images,), or None without labels.
    depths
        int64 (n_images, 2): position and bytes of an image's depth; None without depth.
    """

    path: Path
    memory: NDArray[np.uint8]
    locations: NDArray[np.int64]
    sizes: NDArray[np.int64]
    is_jpeg: NDArray[np.bool_]
    labels: NDArray[np.int64] | None
    depths: NDArray[np.int64] | None


class BetonWriter:
    """Adds images one after another to a new file; use as a context manager.

    Parameters
    ----------
    path
        File to create.
    capacity
        Most images that will be added.
    has_depth
        Whether every image comes with a depth map.
    page_bytes
        Size of pages, a power of two; an image and its depth map share one.
    """

    def __init__(self, path: Path, *, capacity: int, has_depth: bool, page_bytes: int) -> None:
        self._row = metadata_row(has_depth=has_depth)
        self._has_depth = has_depth
        self._page_bytes = page_bytes
        self._fields = _field_descriptions(field_names(has_depth=has_depth))
        head = HEADER.itemsize + len(self._fields)
        self._rows: NDArray[Any] = np.zeros(capacity, self._row)
        self._table: NDArray[Any] = np.zeros(capacity * (2 if has_depth else 1), ALLOCATION)
        self._n_images = self._n_allocations = 0
        #: CRC-32 of all images and depth maps added so far.
        self.crc = 0
        end = head + self._rows.nbytes
        #: Where the page that is being filled begins; the first page begins at a multiple of the size.
        self._page_at = -(-end // page_bytes) * page_bytes
        self._used = 0
        self._file = path.open("wb")

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def n_images(self) -> int:
        """Images added so far."""
        return self._n_images

    def add(self, image: Encoded) -> None:
        """Add an image.

        Raises
        ------
        ValueError
            If it does not fit a page, or its depth map is missing or unexpected.
        """
        parts = [image.content] + ([] if image.depth is None else [image.depth])
        needed = sum(map(len, parts))
        if needed > self._page_bytes or (image.depth is not None) != self._has_depth:
            raise ValueError(f"{image.name}: {len(parts)} parts of {needed} bytes do not fit this file")
        if self._used + needed > self._page_bytes:
            self._page_at += self._page_bytes
            self._used = 0
        # What is skipped over reads as zeros and takes no space on disk.
        self._file.seek(self._page_at + self._used)
        pointers = []
        for part in parts:
            pointers.append(self._page_at + self._used)
            self._file.write(part)
            self.crc = zlib.crc32(part, self.crc)
            self._table[self._n_allocations] = (self._n_images, pointers[-1], len(part))
            self._n_allocations += 1
            self._used += len(part)
        row = self._rows[self._n_images]
        row["f0"] = (image.mode, image.width, image.height, pointers[0])
        row["f1"], row["f2"] = image.label, self._n_images
        if image.depth is not None:
            row["f3"] = (pointers[1], len(image.depth))
        self._n_images += 1

    def finish(self) -> None:
        """Write the allocation table, the metadata and, last, the header."""
        table_at = self._page_at + self._page_bytes
        self._file.seek(table_at)
        self._file.write(self._table[: self._n_allocations].tobytes())
        header = np.zeros((), HEADER)
        self._file.seek(HEADER.itemsize)
        self._file.write(self._fields + self._rows[: self._n_images].tobytes())
        header["version"], header["page_size"] = FORMAT_VERSION, self._page_bytes
        header["num_fields"] = len(self._fields) // FIELD.itemsize
        header["num_samples"], header["alloc_table_ptr"] = self._n_images, table_at
        self._file.flush()
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.flush()


def check_complete(path: Path) -> Sidecar:
    """Check quickly that a ``.beton`` is whole and the one its sidecar describes; return the sidecar.

    Raises
    ------
    DataError
        If it is missing, cut, half written, replaced, or its metadata were changed. A changed pixel goes
        unseen here; :func:`verify_beton` detects it.
    """
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(8)
    # A file that is being written begins with zeros.
    if head[:2] not in (b"", b"\0\0", FORMAT_VERSION.to_bytes(2, "little")):
        kind = " (an HDF5 file: features or recordings?)" if head.startswith(b"\x89HDF") else ""
        raise DataError(f"{path}: is no .beton file{kind}")
    sidecar = read_sidecar(path)
    if size != sidecar.n_bytes:
        raise DataError(
            f"{path}: {size} bytes, but {sidecar.n_bytes} were written: cut short or half copied; {_AGAIN}"
        )
    structure = read_structure(path)
    if structure.sha256 != sidecar.structure_sha256:
        raise DataError(f"{path}: not the file that its .json describes, or damaged; {_AGAIN}")
    return sidecar


def verify_beton(
    path: Path, *, workers: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> VerifyReport:
    """Read a ``.beton`` completely and compare it with its sidecar.

    The structure, the file's sha256, every image's pixels (JPEGs are decoded)
    and depth map, and, where it is installed, the tables as FFCV's own reader gives them.

    Parameters
    ----------
    path
        The file, with its sidecar beside it.
    workers
        Threads that decode.
    progress
        Called with (images done, all images).

    Raises
    ------
    DataError
        Naming the first problems.
    """
    sidecar = check_complete(path)
    structure = read_structure(path)
    sha256 = sha256_of(path)
    if sha256 != sidecar.sha256:
        raise DataError(
            f"{path}: its content changed since it was written (sha256 {sha256[:12]}..., "
            f"not {sidecar.sha256[:12]}...); {_AGAIN}"
        )
    _check_labels(structure, sidecar.counts)
    _decode_all(structure, workers, progress)
    with_ffcv = has_ffcv()
    if with_ffcv:
        compare_with_ffcv(structure)
    return VerifyReport(
        path=str(path),
        n_images=structure.n_images,
        n_bytes=sidecar.n_bytes,
        sha256=sha256,
        classes=None if sidecar.classes is None else len(sidecar.classes),
        with_ffcv=with_ffcv,
    )


def read_sidecar(beton: Path) -> Sidecar:
    """Read the sidecar of a ``.beton``.

    Raises
    ------
    DataError
        If it is missing or is not one.
    """
    path = sidecar_path(beton)
    try:
        sidecar = Sidecar.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{beton}: its {path.name} is missing, so the file cannot be checked; {_AGAIN}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "content"
        raise DataError(f"{path}: not a description of a beton ({key}: {first['msg']}); {_AGAIN}") from error
    if sidecar.digest != _sidecar_digest(sidecar):
        raise DataError(f"{path}: damaged, or changed since it was written (its digest differs); {_AGAIN}")
    return sidecar


def write_sidecar(beton: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a ``.beton``, whole or not at all."""
    signed = sidecar.model_copy(update={"digest": _sidecar_digest(sidecar)})
    files.write_text(sidecar_path(beton), signed.model_dump_json(indent=2) + "\n")


def _sidecar_digest(sidecar: Sidecar) -> str:
    return files.digest_of(sidecar.model_dump(mode="json", exclude={"digest"}))


def sidecar_path(beton: Path) -> Path:
    """Return the path of a ``.beton``'s sidecar: ``train.json`` beside ``train.beton``."""
    return beton.with_suffix(".json")


def read_structure(path: Path) -> Structure:
    """Read and check everything but the pages.

    Raises
    ------
    DataError
        If the header, the fields or the sizes of metadata and allocation table are not those of a
        finished file of mvkit.
    """
    size = _size(path)
    with path.open("rb") as file:
        head = file.read(HEADER.itemsize)
        if len(head) < HEADER.itemsize:
            raise _damaged(path, f"{size} bytes are less than a header")
        header = np.frombuffer(head, HEADER)[0]
        table_at, n_images = int(header["alloc_table_ptr"]), int(header["num_samples"])
        page_bytes, n_fields = int(header["page_size"]), int(header["num_fields"])
        if header["version"] != FORMAT_VERSION:
            raise _damaged(path, f"version {header['version']} of the format, not {FORMAT_VERSION}")
        if table_at == 0:
            raise _damaged(path, "its writer was stopped before the end")
        if page_bytes < 1 or page_bytes & (page_bytes - 1):
            raise _damaged(path, f"pages of {page_bytes} bytes")
        names, fields = _read_fields(path, file.read(n_fields * FIELD.itemsize), n_fields)
        row = metadata_row(has_depth=DEPTH in names)
        start = HEADER.itemsize + len(fields)
        if n_images < 1 or start + n_images * row.itemsize > table_at or table_at > size:
            raise _damaged(path, f"{n_images} images and a table at {table_at} do not fit {size} bytes")
        metadata = file.read(n_images * row.itemsize)
        file.seek(table_at)
        table = file.read()
    per_image = 2 if DEPTH in names else 1
    if len(table) != per_image * n_images * ALLOCATION.itemsize:
        raise _damaged(path, f"an allocation table of {len(table)} bytes for {n_images} images")
    return Structure(
        path=path,
        n_images=n_images,
        page_bytes=page_bytes,
        table_at=table_at,
        names=names,
        rows=np.frombuffer(metadata, row),
        table=np.frombuffer(table, ALLOCATION),
        sha256=hashlib.sha256(head + fields + metadata + table).hexdigest(),
    )


def _read_fields(path: Path, content: bytes, n_fields: int) -> tuple[tuple[str, ...], bytes]:
    if len(content) < n_fields * FIELD.itemsize:
        raise _damaged(path, "the fields are cut")
    fields = np.frombuffer(content, FIELD)
    names = tuple(field["name"].tobytes().split(b"\0")[0].decode("ascii", "replace") for field in fields)
    expected = field_names(has_depth=DEPTH in names)
    if names != expected or [TYPE_IDS[name] for name in names] != fields["type_id"].tolist():
        raise DataError(
            f"{path}: fields {', '.join(names)}, not {', '.join(expected)} as mvkit writes them; "
            "make it with `mvkit prep`"
        )
    return names, content


def _size(path: Path) -> int:
    if not path.is_file():
        raise DataError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}; make it with `mvkit prep`"
        )
    return path.stat().st_size


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: not a finished beton: {what}; {_AGAIN}")


def _check_labels(structure: Structure, counts: tuple[int, ...] | None) -> None:
    labels = structure.column(LABEL)
    if counts is None:
        expected = (labels == NO_LABEL).all()
    else:
        in_range = (labels >= 0).all() and (labels < len(counts)).all()
        expected = in_range and tuple(np.bincount(labels, minlength=len(counts)).tolist()) == counts
    if not expected:
        raise DataError(f"{structure.path}: its labels are not those that its .json counts")


def _decode_all(structure: Structure, workers: int, progress: Callable[[int, int], None]) -> None:
    chunks = range(0, structure.n_images, _CHUNK_IMAGES)
    problems: list[str] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(lambda first: _decode(structure, first), chunks)
        for start, faults in zip(chunks, decoded, strict=True):
            problems.extend(faults)
            progress(min(start + _CHUNK_IMAGES, structure.n_images), structure.n_images)
    if problems:
        shown = "\n".join(f"  {line}" for line in problems[:_MOST_LISTED])
        raise DataError(f"{structure.path}: {len(problems)} images cannot be decoded:\n{shown}")


def _decode(structure: Structure, start: int) -> list[str]:
    """Decode a chunk of images; return the problems, a line each."""
    from PIL import Image

    problems = []
    rows = structure.column(IMAGE)
    with structure.path.open("rb") as file:
        for number in range(start, min(start + _CHUNK_IMAGES, structure.n_images)):
            image, depth = _stored_bytes(structure, file, number)
            size = (int(rows["width"][number]), int(rows["height"][number]))
            try:
                if rows["mode"][number] == JPEG_MODE:
                    with Image.open(io.BytesIO(image), formats=["JPEG"]) as opened:
                        opened.load()
                        if opened.size != size:
                            problems.append(f"image {number}: {opened.size} px, not {size}")
                if depth is not None and unpack_depth(depth).shape != size[::-1]:
                    problems.append(f"image {number}: its depth map has another size")
            except (OSError, SyntaxError, ValueError, DataError) as error:
                problems.append(f"image {number}: {error}")
    return problems


def compare_with_crc(structure: Structure, crc: int) -> None:
    """Compare the images read back with those written.

    Parameters
    ----------
    structure
        Of the file.
    crc
        Of its :class:`BetonWriter`.

    Raises
    ------
    DataError
        If the disk returns anything else.
    """
    read_back = 0
    with structure.path.open("rb") as file:
        for number in range(structure.n_images):
            for part in _stored_bytes(structure, file, number):
                read_back = zlib.crc32(part or b"", read_back)
    if read_back != crc:
        raise DataError(f"{structure.path}: reads back differently from what was written; check the disk")


def _stored_bytes(structure: Structure, file: Any, number: int) -> tuple[bytes, bytes | None]:
    """Return the bytes of an image and of its depth map."""
    per_image = 2 if structure.has_depth else 1
    parts = []
    # mvkit's writer adds allocations in the images' order.
    for _, pointer, size in structure.table[number * per_image : (number + 1) * per_image].tolist():
        file.seek(pointer)
        parts.append(file.read(size))
    return parts[0], parts[1] if structure.has_depth else None


def compare_with_ffcv(structure: Structure) -> None:
    """Make sure that FFCV's own reader reads the same images at the same positions.

    Raises
    ------
    DataError
        If it does not.
    MissingPackageError
        If FFCV is not installed.
    """
    reader = load_ffcv("ffcv.reader").Reader(str(structure.path))
    rows = reader.metadata
    same = (
        int(reader.num_samples) == structure.n_images
        and tuple(reader.field_names) == structure.names
        and rows.dtype.itemsize == structure.rows.dtype.itemsize
        and all((rows[name] == structure.rows[name]).all() for name in structure.rows.dtype.names or ())
        and all((reader.alloc_table[name] == structure.table[name]).all() for name in ALLOCATION.names or ())
    )
    if not same:
        raise DataError(
            f"{structure.path}: FFCV reads it differently from mvkit; reinstall ffcv==1.0.2, and report this"
        )


def read_content(path: Path) -> BetonContent:
    """Read a beton's tables with FFCV and map the file.

    Only for files that passed :func:`mvkit.images.beton.check_complete`: FFCV checks nothing.

    Raises
    ------
    MissingPackageError
        If FFCV cannot be loaded.
    DataError
        If FFCV cannot read the file.
    """
    register_decoder()
    try:
        reader = load_ffcv("ffcv.reader").Reader(str(path))
    # The reader asserts the version and trusts every number in the file.
    except (AssertionError, ValueError, IndexError, KeyError, OSError) as error:
        raise DataError(f"{path}: FFCV cannot read it: {error}\n{_AGAIN}") from error
    columns = {
        name: reader.metadata[column]
        for name, column in zip(reader.field_names, reader.metadata_type.names, strict=True)
    }
    images, labels = columns[IMAGE], columns[LABEL].astype(np.int64)
    depths = columns.get(DEPTH)
    return BetonContent(
        path=path,
        memory=np.asarray(np.memmap(path, np.uint8, mode="r")),
        locations=_columns(images, ("data_ptr", "height", "width")),
        sizes=_sizes(reader.alloc_table, images["data_ptr"]),
        is_jpeg=images["mode"] == JPEG_MODE,
        labels=None if (labels == NO_LABEL).all() else labels,
        depths=None if depths is None else _columns(depths, ("ptr", "size")),
    )


def register_decoder() -> None:
    """Load FFCV's library into LLVM, so that compiled functions can call its JPEG decoder."""
    llvm = importlib.import_module("llvmlite.binding")
    llvm.load_library_permanently(str(load_ffcv("ffcv._libffcv").__file__))


def _columns(rows: NDArray[Any], columns: tuple[str, ...]) -> NDArray[np.int64]:
    return np.stack([rows[column].astype(np.int64) for column in columns], axis=1)


def _sizes(allocations: NDArray[Any], starts: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bytes that were allocated at each position."""
    order = np.argsort(allocations["ptr"], kind="stable")
    rows = order[np.searchsorted(allocations["ptr"], starts, sorter=order)]
    return np.ascontiguousarray(allocations["size"][rows], np.int64)


def has_ffcv() -> bool:
    """Whether FFCV can be loaded (this loads it)."""
    try:
        load_ffcv()
    except MissingPackageError:
        return False
    return True


def load_ffcv(module: str = PACKAGE) -> ModuleType:
    """Return FFCV or one of its modules (``ffcv.reader``).

    Its import sets torch to one thread; the number from before is restored.

    Raises
    ------
    MissingPackageError
        If FFCV is not installed or cannot be loaded; the message tells how to install it.
    """
    reason = "is not installed"
    if importlib.util.find_spec(PACKAGE) is not None:
        import torch

        n_threads = torch.get_num_threads()
        try:
            with warnings.catch_warnings():
                # Its dependencies warn about one another; none of it concerns the user.
                warnings.simplefilter("ignore")
                _cache_compiled_dictionaries()
                return importlib.import_module(module)
        except ImportError as error:
            reason = f"does not load ({error})"
        finally:
            torch.set_num_threads(n_threads)
    raise MissingPackageError(
        f"FFCV, which writes and reads .beton files, {reason}\n"
        f"install it with `{INSTALL_COMMAND}` in mvkit's checkout; "
        "without it `mvkit train --images DIR` reads image folders directly (same views, slower)"
    )


def _cache_compiled_dictionaries() -> None:
    """Have numba cache what FFCV compiles when imported: a dictionary that takes 4 seconds each time."""
    from numba.typed import typeddict

    for value in vars(typeddict).values():
        if hasattr(value, "enable_caching"):
            # Neither numba's folder nor the user's cache can be written: compiled each time, as before.
            with suppress(RuntimeError):
                value.enable_caching()


def field_names(*, has_depth: bool) -> tuple[str, ...]:
    """Return the fields of a file, in order."""
    return (IMAGE, LABEL, INDEX, DEPTH) if has_depth else (IMAGE, LABEL, INDEX)


def metadata_row(*, has_depth: bool) -> np.dtype[Any]:
    """Return the type of an image's row of metadata; columns ``f0``, ``f1``, ... in the fields' order."""
    return np.dtype([("", _ROWS[name]) for name in field_names(has_depth=has_depth)], align=True)


def _field_descriptions(names: tuple[str, ...]) -> bytes:
    fields = np.zeros(len(names), FIELD)
    for field, name in zip(fields, names, strict=True):
        field["type_id"] = TYPE_IDS[name]
        field["name"] = np.frombuffer(name.encode().ljust(_NAME_BYTES, b"\0"), np.uint8)
    return fields.tobytes()


def pack_depth(depth: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return the bytes of a depth map.

    Parameters
    ----------
    depth
        uint8 or uint16 (height, width).
    """
    n_bytes = depth.dtype.itemsize
    greatest = int(np.iinfo(depth.dtype).max)
    header = np.array([*depth.shape, n_bytes, greatest], _DEPTH_HEADER)
    return header.tobytes() + np.ascontiguousarray(depth.astype(f"<u{n_bytes}")).tobytes()


def unpack_depth(content: bytes | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a depth map in [0, 1], float32 (height, width), from the bytes of the ``depth`` field.

    Raises
    ------
    DataError
        If the bytes are not those of a depth map.
    """
    data = np.frombuffer(content, np.uint8)
    if data.size >= DEPTH_HEADER_BYTES:
        height, width, n_bytes, greatest = map(int, data[:DEPTH_HEADER_BYTES].view(_DEPTH_HEADER))
        pixels = data[DEPTH_HEADER_BYTES:]
        if n_bytes in (1, 2) and greatest > 0 and pixels.size >= height * width * n_bytes > 0:
            values = pixels[: height * width * n_bytes].view(f"<u{n_bytes}").reshape(height, width)
            return values.astype(np.float32) / np.float32(greatest)
    raise DataError("these bytes hold no depth map; run `mvkit prep --verify FILE`")
