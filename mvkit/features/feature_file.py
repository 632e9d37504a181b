"""Feature files, HDF5 and NumPy's archive."""

from __future__ import annotations

import errno
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, unknown_name, wording
from mvkit.features.feature_set import FeatureProvenance, FeatureSet, ImageIds, LayerInfo
from mvkit.files import (
    check_checksum,
    check_self_contained,
    check_unpacked_archive,
    check_unpacked_dataset,
    name_file_in_errors,
    open_hdf5,
    replacing,
    reserve_space,
)
from mvkit.neural.dataset import as_text, whole_numbers
from mvkit.neural.netcdf import PACKING_ATTRIBUTES, packing_of
from mvkit.neural.neural_file import GuardedFile
from mvkit.paths import expand

FORMAT_NAME = "mvkit-features"
FORMAT_VERSION = 1

#: Format -> suffixes of its files; the first is added to a name without one.
FORMATS = {"h5": (".h5", ".hdf5"), "npz": (".npz",)}

#: Errors of the operating system for a full disk.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LAYERS = "layers"
_IMAGE_IDS = "image_ids"
_METADATA = "metadata"
_ZIP_MAGIC = b"PK\x03\x04"

_CHUNK_BYTES = 256 * 1024
# Chunks are stored whole: more rows than this would waste space at the end of a file of few images.
_CHUNK_ROWS = 16
# Checksum and index entry of a chunk, generously.
_CHUNK_OVERHEAD = 64
_BLOCK_BYTES = 16 * 1024 * 1024
_VALUE_BYTES = 4

# All that the readers of HDF5, zip and numpy raise on damaged files and other kinds, depending on where the
# bytes are wrong.
_UNREADABLE = (
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
    file = expand(path)
    if not file.is_file():
        raise _missing_error(file)
    with file.open("rb") as raw:
        is_archive = raw.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if not is_archive:
        check_checksum(file, remedy="extract it again")
    return _read_npz(file, lazy=lazy) if is_archive else _read_hdf5(file, lazy=lazy)


def feature_path(target: Path, file_format: str | None) -> Path:
    """Return the file to write: ``target``, with the format's suffix if it has none.

    Parameters
    ----------
    target
        The name asked for.
    file_format
        The format asked for, "h5" or "npz"; None: by the name, or else HDF5.

    Raises
    ------
    UsageError
        If there is no such format, or the name is that of another one.
    """
    if file_format is None:
        if target.suffix and not any(target.suffix.lower() in known for known in FORMATS.values()):
            option = wording("--format h5", 'format="h5"')
            raise UsageError(f"{target}: features are written as .h5 or .npz (or say which: {option})")
        return target
    if file_format not in FORMATS:
        raise unknown_name("format", file_format, FORMATS)
    if not target.suffix:
        return target.with_name(target.name + FORMATS[file_format][0])
    others = {suffix for name, suffixes in FORMATS.items() if name != file_format for suffix in suffixes}
    is_other = target.suffix.lower() in others
    if is_other or (file_format == "npz" and not is_npz(target)):
        raise UsageError(
            f"{target}: format {file_format} asked for, but the name ends in {target.suffix}\n"
            f"name the file *{FORMATS[file_format][0]}, or leave out " + wording("--format", "format")
        )
    return target


def is_npz(target: Path) -> bool:
    """Tell whether a file of this name is written as .npz."""
    return target.suffix.lower() in FORMATS["npz"]


@contextmanager
def hdf5_target(target: Path) -> Iterator[tuple[Any, GuardedFile]]:
    """Yield an empty HDF5 feature file to fill, and its guard; then ``target`` holds it in its own format.

    An .npz holds whole layers one after the other, while a network gives all layers of a few images at a
    time: it is made from an HDF5 file beside it, a few rows at a time, so that memory stays bounded; the
    disk holds the features twice for that moment.

    Raises
    ------
    OSError
        If the disk is full or fails.
    """
    with replacing(target) as temporary:
        scratch = temporary.with_suffix(".h5") if is_npz(target) else temporary
        try:
            with GuardedFile(scratch) as guard, h5py.File(guard, "w") as file:
                yield file, guard
            if is_npz(target):
                stored = _read_hdf5(scratch, lazy=True)
                write_npz(temporary, partial(_row_blocks, scratch), stored.shapes, stored.provenance)
        finally:
            if scratch != temporary:
                scratch.unlink(missing_ok=True)


class FeatureWriter:
    """Fills a feature file row block by row block, without holding it in memory.

    Parameters
    ----------
    file, guard
        An empty HDF5 file, open for writing, and the file below it.
    n_images
        Number of rows.
    rows_per_write
        Rows that each write holds (the last may hold fewer); chunks are aligned with it, so that each is
        written once.
    """

    def __init__(self, file: Any, guard: GuardedFile, n_images: int, rows_per_write: int) -> None:
        self._file = file
        self._guard = guard
        self._n_images = n_images
        self._rows_per_write = min(n_images, rows_per_write)
        self._group = file.create_group(_LAYERS)

    def create_layers(self, layers: Mapping[str, LayerInfo]) -> None:
        """Create the arrays of every layer, in order.

        Raises
        ------
        DataError
            If the disk is too full for all of them.
        """
        chunks = {layer: self._chunk(info.n_features) for layer, info in layers.items()}
        _reserve_space(
            Path(self._guard.name),
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
            if info.parts:
                dataset.attrs["parts"] = list(info.parts)

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
        self._guard.raise_first_error()

    def write_provenance(self, provenance: FeatureProvenance) -> None:
        """Write where the features come from; last, as the digest is known when all images were read."""
        texts = provenance.image_ids and isinstance(provenance.image_ids[0], str)
        self._file.create_dataset(
            _IMAGE_IDS,
            data=list(provenance.image_ids) if texts else np.array(provenance.image_ids, dtype=np.int64),
            dtype=h5py.string_dtype() if texts else np.int64,
        )
        for name, value in _describe(provenance).items():
            self._file.attrs[name] = json.dumps(value) if isinstance(value, dict) else value


def _reserve_space(path: Path, n_bytes: int) -> None:
    """Check that a file can grow to this size; HDF5 itself crashes when a write fails."""
    try:
        reserve_space(path, n_bytes)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DataError(
            f"{path.parent}: no room for {n_bytes / 1e6:.1f} MB of features ({error.strerror})\n"
            "free some, write to another disk, or take fewer layers"
        ) from error


def escape(layer: str) -> str:
    """Return a layer's name as an HDF5 link name."""
    escaped = layer.replace("%", "%25").replace("/", "%2F")
    # "." alone means the group itself.
    return "%2E" if escaped == "." else escaped


def _read_hdf5(path: Path, *, lazy: bool) -> FeatureSet:
    with _open_hdf5(path) as file:
        if file.attrs.get("mvkit_format") != FORMAT_NAME:
            raise DataError(f"{path}: not a feature file of mvkit; write one with `mvkit extract`")
        with name_file_in_errors(path):
            check_self_contained(file)
        attributes = dict(file.attrs)
        described = {
            **attributes,
            **{key: json.loads(attributes[key]) for key in ("preprocessing", "versions")},
        }
        provenance = _read_provenance(path, described, _read_hdf5_ids(path, file[_IMAGE_IDS]))
        stored = sorted(file[_LAYERS].values(), key=lambda dataset: int(dataset.attrs["position"]))
        shapes = {str(item.attrs["layer"]): tuple(map(int, item.attrs["shape"])) for item in stored}
        for layer, item in zip(shapes, stored, strict=True):
            check_unpacked_dataset(item, f"{path}: layer '{layer}'")
            _check_array(layer, item.shape, item.dtype, provenance, shapes)
            _check_plain(item, f"{path}: layer '{layer}'")
    arrays = LazyArrays(tuple(shapes), partial(_read_hdf5_layer, path.absolute()))
    return FeatureSet(arrays if lazy else dict(arrays), shapes, provenance)


def _read_hdf5_ids(path: Path, stored: Any) -> ImageIds:
    check_unpacked_dataset(stored, f"{path}: image_ids")
    if h5py.check_string_dtype(stored.dtype) is None:
        _check_plain(stored, f"{path}: image_ids")
    return _image_ids(path, stored[:])


def _read_hdf5_layer(path: Path, layer: str) -> NDArray[np.float32]:
    with _open_hdf5(path) as file:
        values: NDArray[np.float32] = file[_LAYERS][escape(layer)][:]
    return values


def _row_blocks(path: Path, layer: str) -> Iterator[NDArray[np.float32]]:
    """Yield a layer's rows in order, float32 (rows, n_features), some 16 MB (or one row) at a time."""
    with _open_hdf5(path) as file:
        stored = file[_LAYERS][escape(layer)]
        n_images, n_features = stored.shape
        # Whole chunks, so that each is read once.
        chunk = stored.chunks[0]
        rows = max(1, _BLOCK_BYTES // (_VALUE_BYTES * n_features * chunk)) * chunk
        for start in range(0, n_images, rows):
            yield stored[start : start + rows]


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    with _explain_damage(path), open_hdf5(path) as file:
        yield file


def check_names(layers: Mapping[str, object]) -> None:
    """Check that no layer has the name of another array of an archive.

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
    path: Path,
    row_blocks: Callable[[str], Iterator[NDArray[np.float32]]],
    shapes: Mapping[str, tuple[int, ...]],
    provenance: FeatureProvenance,
) -> None:
    """Write features as an archive; memory holds one block of rows.

    Parameters
    ----------
    path
        The file; replaced if it exists, and of no use if the function fails.
    row_blocks
        Called with a layer's name; yields its rows in order, float32 (rows, n_features) each.
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
    layers = [{"name": layer, "shape": list(shape)} for layer, shape in shapes.items()]
    described = {**_describe(provenance), "layers": layers}
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
                    for block in row_blocks(layer):
                        member.write(np.ascontiguousarray(block, "<f4").tobytes())
            _write_array(archive, _IMAGE_IDS, np.array(provenance.image_ids))
            _write_array(archive, _METADATA, np.array(json.dumps(described)))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DataError(
            f"{path.parent}: no room for the features as .npz ({error.strerror}); it needs twice their size "
            "while it is written\nfree some, write to another disk, or take fewer layers"
        ) from error


def _read_npz(path: Path, *, lazy: bool) -> FeatureSet:
    with _open_npz(path) as archive:
        if f"{_METADATA}.npy" not in archive.namelist():
            raise DataError(f"{path}: not a feature file of mvkit; write one with `mvkit extract`")
        described = json.loads(str(_read_array(archive, _METADATA)))
        if described["mvkit_format"] != FORMAT_NAME:
            raise ValueError("another program's metadata")
        provenance = _read_provenance(path, described, _image_ids(path, _read_array(archive, _IMAGE_IDS)))
        shapes = {str(layer["name"]): tuple(map(int, layer["shape"])) for layer in described["layers"]}
        for layer in shapes:
            with archive.open(f"{layer}.npy") as member:
                shape, _, dtype = _read_header(member)
            _check_array(layer, shape, dtype, provenance, shapes)
    arrays = LazyArrays(tuple(shapes), partial(_read_npz_layer, path.absolute()))
    return FeatureSet(arrays if lazy else dict(arrays), shapes, provenance)


def _read_npz_layer(path: Path, layer: str) -> NDArray[np.float32]:
    with _open_npz(path) as archive:
        return np.asarray(_read_array(archive, layer), dtype=np.float32)


@contextmanager
def _open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    with _explain_damage(path), zipfile.ZipFile(path) as archive:
        check_unpacked_archive(archive, path)
        yield archive


def _write_array(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array(member, values, allow_pickle=False)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        values: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return values


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array of another version of NumPy's format")
    return np.lib.format.read_array_header_1_0(member)


class LazyArrays(Mapping[str, NDArray[np.float32]]):
    """Layers of a file, each read when it is accessed: float32 (n_images, n_features)."""

    def __init__(self, layers: tuple[str, ...], read: Callable[[str], NDArray[np.float32]]) -> None:
        self._layers = layers
        self._read = read

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        """Read one layer."""
        if layer not in self._layers:
            raise KeyError(layer)
        return self._read(layer)

    def __iter__(self) -> Iterator[str]:
        """Iterate over layer names."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._layers)


def _describe(provenance: FeatureProvenance) -> dict[str, object]:
    return {
        "mvkit_format": FORMAT_NAME,
        "mvkit_format_version": FORMAT_VERSION,
        "model": provenance.model_name,
        "weights_id": provenance.weights_id,
        "stimuli": provenance.stimuli,
        "stimuli_digest": provenance.stimuli_digest,
        "preprocessing": dict(provenance.preprocessing),
        "versions": dict(provenance.versions),
    }


def _read_provenance(path: Path, described: Mapping[str, Any], ids: ImageIds) -> FeatureProvenance:
    version = int(described["mvkit_format_version"])
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path}: feature file version {version} is newer than this mvkit reads; update mvkit"
        )
    return FeatureProvenance(
        model_name=str(described["model"]),
        weights_id=str(described["weights_id"]),
        preprocessing=dict(described["preprocessing"]),
        stimuli=str(described["stimuli"]),
        stimuli_digest=str(described["stimuli_digest"]),
        image_ids=ids,
        versions=dict(described["versions"]),
    )


def _image_ids(path: Path, stored: NDArray[Any]) -> ImageIds:
    """Return ids of a file: text, or whole numbers."""
    what = f"{path}: image_ids"
    if stored.dtype.kind in "SUO":
        return tuple(as_text(text, what) for text in stored.tolist())
    return tuple(whole_numbers(stored, what).tolist())


def _check_array(
    layer: str,
    shape: tuple[int, ...],
    dtype: Any,
    provenance: FeatureProvenance,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    expected = (len(provenance.image_ids), int(np.prod(shapes[layer], dtype=np.int64)))
    if shape != expected or dtype != np.float32:
        raise ValueError(f"layer '{layer}' is {dtype} {shape}, not float32 {expected}")


def _check_plain(dataset: Any, what: str) -> None:
    """Check that no other program packed the numbers, or marked some as missing."""
    if not packing_of(dataset, what).is_plain:
        named = ", ".join(f"'{name}'" for name in PACKING_ATTRIBUTES if name in dataset.attrs)
        raise DataError(f"{what}: saved by another program with {named}, which is not read; extract it again")


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise _missing_error(path)
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: damaged, or not a feature file ({reason[:160]}); extract it again"
        ) from error


def _missing_error(path: Path) -> DataError:
    return DataError(f"{path}: no such feature file; write one with `mvkit extract MODEL --out {path.name}`")
