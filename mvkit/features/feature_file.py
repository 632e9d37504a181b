"""Feature files, HDF5 and NumPy's archive."""

from __future__ import annotations

import errno
import json
import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.features.feature_set import FeatureProvenance, FeatureSet, ImageIds, LayerInfo
from mvkit.files import replacing
from mvkit.neural.dataset import as_text, whole_numbers
from mvkit.neural.netcdf import PACKING_ATTRIBUTES, packing_of

FORMAT_NAME = "mvkit-features"
FORMAT_VERSION = 1
_LAYERS = "layers"
_CHUNK_BYTES = 256 * 1024
# Chunks are stored whole: more rows than this would waste room at the end of a file of few images.
_CHUNK_ROWS = 16
_BLOCK_BYTES = 16 * 1024 * 1024
_VALUE_BYTES = 4
#: What the operating system says of a full disk.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Checksum and index entry of a chunk, generously.
_CHUNK_OVERHEAD = 64


class FeatureWriter:
    """Fills a feature file row block by row block; nothing is kept in memory.

    Parameters
    ----------
    file
        An empty HDF5 file, open for writing.
    n_images
        Number of rows.
    rows_per_write
        Rows that each write holds (the last may hold fewer); chunks are aligned with it, so that each is
        written once.
    """

    def __init__(self, file: Any, n_images: int, rows_per_write: int) -> None:
        self._file = file
        self._n_images = n_images
        self._rows_per_write = min(n_images, rows_per_write)
        self._group = file.create_group(_LAYERS)

    def create_layers(self, layers: Mapping[str, LayerInfo]) -> None:
        """Make room for every layer, in order.

        Raises
        ------
        DataError
            If the disk is too full for all of them.
        """
        chunks = {layer: self._chunk(info.n_features) for layer, info in layers.items()}
        _require_room(
            Path(self._file.filename),
            sum(self._stored_bytes(info.n_features, chunks[layer]) for layer, info in layers.items()),
        )
        for position, (layer, info) in enumerate(layers.items()):
            dataset = self._group.create_dataset(
                escape(layer),
                (self._n_images, info.n_features),
                dtype="float32",
                chunks=chunks[layer],
                fletcher32=True,
            )
            dataset.attrs["layer"] = layer
            dataset.attrs["shape"] = np.array(info.shape, dtype=np.int64)
            dataset.attrs["position"] = position

    def _chunk(self, n_features: int) -> tuple[int, int]:
        fitting = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (_VALUE_BYTES * n_features)))
        rows = max(row for row in range(1, fitting + 1) if self._rows_per_write % row == 0)
        n_pieces = math.ceil(rows * n_features * _VALUE_BYTES / _CHUNK_BYTES)
        return rows, math.ceil(n_features / n_pieces)

    def _stored_bytes(self, n_features: int, chunk: tuple[int, int]) -> int:
        n_chunks = math.ceil(self._n_images / chunk[0]) * math.ceil(n_features / chunk[1])
        return n_chunks * (chunk[0] * chunk[1] * _VALUE_BYTES + _CHUNK_OVERHEAD)

    def write_rows(self, layer: str, start: int, rows: NDArray[np.float32]) -> None:
        """Write features of images ``start`` to ``start + len(rows)``, (rows, n_features)."""
        self._group[escape(layer)][start : start + len(rows)] = rows

    def write_provenance(self, provenance: FeatureProvenance) -> None:
        """Write where the features come from; last, as the digest is known when all images were read."""
        texts = provenance.image_ids and isinstance(provenance.image_ids[0], str)
        self._file.create_dataset(
            _IMAGE_IDS,
            data=list(provenance.image_ids) if texts else np.array(provenance.image_ids, dtype=np.int64),
            dtype=h5py.string_dtype() if texts else np.int64,
        )
        self._file.attrs.update(
            {
                "mvkit_format": FORMAT_NAME,
                "mvkit_format_version": FORMAT_VERSION,
                "model": provenance.model_name,
                "weights_id": provenance.weights_id,
                "preprocessing": json.dumps(dict(provenance.preprocessing)),
                "stimuli": provenance.stimuli,
                "stimuli_digest": provenance.stimuli_digest,
                "versions": json.dumps(dict(provenance.versions)),
            }
        )


class LazyArrays(Mapping[str, NDArray[np.float32]], ABC):
    """Layers of a file, each read when it is asked for."""

    def __init__(self, path: Path, layers: tuple[str, ...]) -> None:
        # Absolute: the working directory may change before a layer is read.
        self._path = path.absolute()
        self._layers = layers

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        """Read one layer, float32 (n_images, n_features)."""
        if layer not in self._layers:
            raise KeyError(layer)
        return self._read(layer)

    @abstractmethod
    def _read(self, layer: str) -> NDArray[np.float32]:
        """Read a layer that the file has."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over layer names."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._layers)


class StoredArrays(LazyArrays):
    """Layers of an HDF5 feature file."""

    def _read(self, layer: str) -> NDArray[np.float32]:
        with _opening_hdf5(self._path) as file:
            values: NDArray[np.float32] = file[_LAYERS][escape(layer)][:]
        return values

    def row_blocks(self, layer: str) -> Iterator[NDArray[np.float32]]:
        """Yield a layer's rows in order, float32 (rows, n_features), some 16 MB (or one row) at a time."""
        with _opening_hdf5(self._path) as file:
            stored = file[_LAYERS][escape(layer)]
            n_images, n_features = stored.shape
            # Whole chunks, so that each is read once.
            chunk = stored.chunks[0]
            rows = max(1, _BLOCK_BYTES // (_VALUE_BYTES * n_features * chunk)) * chunk
            for start in range(0, n_images, rows):
                yield stored[start : start + rows]


def read_hdf5(place: Path, *, lazy: bool = False) -> FeatureSet:
    """Read an HDF5 feature file; as :func:`mvkit.features.read_features`.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another kind, or of a newer version.
    """
    with _opening_hdf5(place) as file:
        _check_format(place, file)
        provenance = _read_hdf5_origin(file)
        stored = sorted(file[_LAYERS].values(), key=lambda dataset: int(dataset.attrs["position"]))
        shapes = {str(item.attrs["layer"]): tuple(map(int, item.attrs["shape"])) for item in stored}
        for layer, item in zip(shapes, stored, strict=True):
            expected = (len(provenance.image_ids), int(np.prod(shapes[layer], dtype=np.int64)))
            if item.shape != expected or item.dtype != np.float32:
                raise ValueError(f"layer '{layer}' is {item.dtype} {item.shape}, not float32 {expected}")
            _check_plain(item, f"{place}: layer '{layer}'")
        arrays = StoredArrays(place, tuple(shapes))
        eager = None if lazy else {layer: item[:] for layer, item in zip(shapes, stored, strict=True)}
    return FeatureSet(arrays if eager is None else eager, shapes, provenance)


def escape(layer: str) -> str:
    """Return a layer's name as an HDF5 link name."""
    escaped = layer.replace("%", "%25").replace("/", "%2F")
    # "." alone means the group itself.
    return "%2E" if escaped == "." else escaped


def _require_room(path: Path, n_bytes: int) -> None:
    """Check that a file can grow to this size; HDF5 itself crashes when a write fails."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size + n_bytes)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DataError(
                f"{path.parent}: no room for {n_bytes / 1e6:.1f} MB of features ({error.strerror})\n"
                "free some, write elsewhere, or take fewer layers"
            ) from error
        os.ftruncate(file.fileno(), size)


@contextmanager
def _opening_hdf5(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: no such feature file; write one with `mvkit extract MODEL --out {path.name}`"
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        # h5py reports damage with any of these, depending on where the bytes are wrong.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: damaged, or not a feature file ({reason}); extract it again") from error


def _check_format(path: Path, file: Any) -> None:
    if file.attrs.get("mvkit_format") != FORMAT_NAME:
        raise DataError(f"{path}: not a feature file of mvkit; write one with `mvkit extract`")
    check_version(path, int(file.attrs["mvkit_format_version"]))


def check_version(path: Path, version: int) -> None:
    """Refuse a feature file, of either format, that a newer mvkit wrote.

    Raises
    ------
    DataError
        If this mvkit does not read that version.
    """
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path}: feature file version {version} is newer than this mvkit reads; update mvkit"
        )


def _check_plain(dataset: Any, what: str) -> None:
    """Refuse numbers that another program packed, or in which it marked some as missing.

    Raises
    ------
    DataError
        Naming the attributes that say so.
    """
    if not packing_of(dataset, what).is_plain:
        named = ", ".join(f"'{name}'" for name in PACKING_ATTRIBUTES if name in dataset.attrs)
        raise DataError(f"{what}: saved by another program with {named}, which is not read; extract it again")


def image_ids_of(stored: NDArray[Any], what: str) -> ImageIds:
    """Return ids as a file holds them: text, or whole numbers.

    Raises
    ------
    DataError
        If they are numbers that are not whole.
    """
    if stored.dtype.kind in "SUO":
        return tuple(as_text(text, what) for text in stored.tolist())
    return tuple(whole_numbers(stored, what).tolist())


def _read_hdf5_origin(file: Any) -> FeatureProvenance:
    raw = file[_IMAGE_IDS]
    what = f"{file.filename}: image_ids"
    if h5py.check_string_dtype(raw.dtype) is None:
        _check_plain(raw, what)
    ids = image_ids_of(raw[:], what)
    return FeatureProvenance(
        model_name=str(file.attrs["model"]),
        weights_id=str(file.attrs["weights_id"]),
        preprocessing=json.loads(file.attrs["preprocessing"]),
        stimuli=str(file.attrs["stimuli"]),
        stimuli_digest=str(file.attrs["stimuli_digest"]),
        image_ids=ids,
        versions=json.loads(file.attrs["versions"]),
    )


_IMAGE_IDS = "image_ids"
_METADATA = "metadata"
# All that zip's and numpy's readers raise on damaged or foreign files.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
    RuntimeError,
)


class RowBlocks(Protocol):
    """Layers that are read a few images at a time."""

    def row_blocks(self, layer: str) -> Iterator[NDArray[np.float32]]:
        """Yield a layer's rows in order, float32 (rows, n_features) each."""


def check_names(layers: Mapping[str, object]) -> None:
    """Refuse layers whose arrays would stand where the archive keeps something else.

    Raises
    ------
    UsageError
        Names the layer and the way out.
    """
    for taken in (_IMAGE_IDS, _METADATA):
        if taken in layers:
            raise UsageError(
                f"layer '{taken}' has the name of an array that every .npz of features holds\n"
                "write an .h5 file, or leave the layer out"
            )


def write_npz(
    path: Path, rows: RowBlocks, shapes: Mapping[str, tuple[int, ...]], provenance: FeatureProvenance
) -> None:
    """Write features as an archive; memory holds one block of rows.

    Parameters
    ----------
    path
        The file; replaced if it exists, and of no use if the function fails.
    rows
        The layers' values.
    shapes
        Layer name -> shape of one image's output before flattening, in the model's order.
    provenance
        Network, weights, images and versions.

    Raises
    ------
    DataError
        If the disk is full.
    UsageError
        If a layer has a name that is taken.
    """
    check_names(shapes)
    n_images = len(provenance.image_ids)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for layer, shape in shapes.items():
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (n_images, int(np.prod(shape, dtype=np.int64))),
                }
                with archive.open(f"{layer}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in rows.row_blocks(layer):
                        member.write(np.ascontiguousarray(block, "<f4").tobytes())
            _write_array(archive, _IMAGE_IDS, np.array(provenance.image_ids))
            _write_array(archive, _METADATA, np.array(json.dumps(_describe(shapes, provenance))))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DataError(
            f"{path.parent}: no room for the features as .npz ({error.strerror}); it needs twice their size "
            "while it is written\nfree some, write elsewhere, or take fewer layers"
        ) from error


def read_npz(path: Path, *, lazy: bool = False) -> FeatureSet:
    """Read features from an archive of :func:`write_npz`; as :func:`mvkit.features.read_features`.

    Raises
    ------
    DataError
        If the file is damaged, of another kind, or of a newer version.
    """
    with _opening(path) as archive:
        if f"{_METADATA}.npy" not in archive.namelist():
            raise DataError(f"{path}: not a feature file of mvkit; write one with `mvkit extract`")
        described = json.loads(str(_read_array(archive, _METADATA)))
        if described["mvkit_format"] != FORMAT_NAME:
            raise ValueError("another program's metadata")
        check_version(path, int(described["mvkit_format_version"]))
        shapes = {str(layer["name"]): tuple(map(int, layer["shape"])) for layer in described["layers"]}
        ids = image_ids_of(_read_array(archive, _IMAGE_IDS), f"{path}: image_ids")
        provenance = _read_origin(described, ids)
        for layer, shape in shapes.items():
            _check_header(archive, layer, (len(provenance.image_ids), int(np.prod(shape, dtype=np.int64))))
    arrays = ArchivedArrays(path, tuple(shapes))
    return FeatureSet(arrays if lazy else dict(arrays), shapes, provenance)


class ArchivedArrays(LazyArrays):
    """Layers of an archive."""

    def _read(self, layer: str) -> NDArray[np.float32]:
        with _opening(self._path) as archive:
            return np.asarray(_read_array(archive, layer), dtype=np.float32)


def _describe(shapes: Mapping[str, tuple[int, ...]], provenance: FeatureProvenance) -> dict[str, object]:
    return {
        "mvkit_format": FORMAT_NAME,
        "mvkit_format_version": FORMAT_VERSION,
        "model": provenance.model_name,
        "weights_id": provenance.weights_id,
        "stimuli": provenance.stimuli,
        "stimuli_digest": provenance.stimuli_digest,
        "preprocessing": dict(provenance.preprocessing),
        "versions": dict(provenance.versions),
        "layers": [{"name": layer, "shape": list(shape)} for layer, shape in shapes.items()],
    }


def _read_origin(described: Mapping[str, Any], ids: ImageIds) -> FeatureProvenance:
    return FeatureProvenance(
        model_name=str(described["model"]),
        weights_id=str(described["weights_id"]),
        preprocessing=dict(described["preprocessing"]),
        stimuli=str(described["stimuli"]),
        stimuli_digest=str(described["stimuli_digest"]),
        image_ids=ids,
        versions=dict(described["versions"]),
    )


def _write_array(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array(member, values, allow_pickle=False)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        values: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return values


def _check_header(archive: zipfile.ZipFile, layer: str, expected: tuple[int, int]) -> None:
    with archive.open(f"{layer}.npy") as member:
        shape, _, dtype = _header(member)
    if shape != expected or dtype != np.float32:
        raise ValueError(f"layer '{layer}' is {dtype} {shape}, not float32 {expected}")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array of another version of NumPy's format")
    return np.lib.format.read_array_header_1_0(member)


@contextmanager
def _opening(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: damaged, or not a feature file ({reason[:160]}); extract it again"
        ) from error


#: Format -> how its files may be named; the first is added to a name without a suffix.
FORMATS = {"h5": (".h5", ".hdf5"), "npz": (".npz",)}
_ZIP_MAGIC = b"PK\x03\x04"


def feature_path(target: Path, wanted: str | None) -> Path:
    """Return the file to write: ``target``, with the format's suffix if it has none.

    Parameters
    ----------
    target
        The name asked for.
    wanted
        The format asked for, "h5" or "npz"; None: as the name says, HDF5 if it says nothing.

    Raises
    ------
    UsageError
        If there is no such format, or the name says another one.
    """
    if wanted is None:
        return target
    if wanted not in FORMATS:
        raise unknown_name("format", wanted, FORMATS)
    if not target.suffix:
        return target.with_name(target.name + FORMATS[wanted][0])
    others = {suffix for name, suffixes in FORMATS.items() if name != wanted for suffix in suffixes}
    is_other = target.suffix.lower() in others
    if is_other or (wanted == "npz" and not is_npz(target)):
        raise UsageError(
            f"{target}: format {wanted} asked for, but the name ends in {target.suffix}\n"
            f"name the file *{FORMATS[wanted][0]}, or leave out --format"
        )
    return target


def is_npz(target: Path) -> bool:
    """Tell whether a file of this name is written as .npz."""
    return target.suffix.lower() in FORMATS["npz"]


@contextmanager
def hdf5_target(target: Path) -> Iterator[Path]:
    """Yield the path of an HDF5 feature file to fill; afterwards ``target`` holds it in its own format.

    An .npz holds whole layers one after the other, while a network gives all layers of a few images at a
    time: it is made from an HDF5 file beside it, a few rows at a time, so that memory stays bounded; the
    disk holds the features twice for that moment.
    """
    with replacing(target) as temporary:
        if not is_npz(target):
            yield temporary
            return
        scratch = temporary.with_suffix(".h5")
        try:
            yield scratch
            stored = read_hdf5(scratch, lazy=True)
            write_npz(temporary, StoredArrays(scratch, stored.layers), stored.shapes, stored.provenance)
        finally:
            scratch.unlink(missing_ok=True)


def read_features(path: str | Path, *, lazy: bool = False) -> FeatureSet:
    """Read a feature file, HDF5 or .npz.

    Parameters
    ----------
    path
        File written by :func:`mvkit.features.extract_to_file` or ``mvkit extract``.
    lazy
        Read each layer when it is accessed (and again at each access) instead of all now.

    Returns
    -------
    FeatureSet
        Layers in the order in which they were written.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another kind, or of a newer version.
    """
    place = Path(path).expanduser()
    if place.is_file():
        with place.open("rb") as file:
            if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
                return read_npz(place, lazy=lazy)
    return read_hdf5(place, lazy=lazy)
