"""The same features as NumPy's archive, for programs that read no HDF5.

::

    NAME.npy          float32 (n_images, n_features): one array per layer, under the layer's own name
    image_ids.npy     int64 or text (n_images,)
    metadata.npy      text (0 dimensions), JSON: mvkit_format, mvkit_format_version, model, weights_id,
                      stimuli, stimuli_digest, preprocessing, versions, layers (name and shape before
                      flattening, in order)

``numpy.load(path)`` reads it without pickles; nothing is compressed.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.features.feature_file import (
    FORMAT_NAME,
    FORMAT_VERSION,
    NO_ROOM,
    LazyArrays,
    check_version,
    image_ids_of,
)
from mvkit.features.featureset import FeatureOrigin, FeatureSet, ImageIds

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
    path: Path, rows: RowBlocks, shapes: Mapping[str, tuple[int, ...]], origin: FeatureOrigin
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
    origin
        Network, weights, images and versions.

    Raises
    ------
    DataError
        If the disk is full.
    UsageError
        If a layer has a name that is taken.
    """
    check_names(shapes)
    n_images = len(origin.image_ids)
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
            _write_array(archive, _IMAGE_IDS, np.array(origin.image_ids))
            _write_array(archive, _METADATA, np.array(json.dumps(_describe(shapes, origin))))
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
        origin = _read_origin(described, ids)
        for layer, shape in shapes.items():
            _check_header(archive, layer, (len(origin.image_ids), int(np.prod(shape, dtype=np.int64))))
    arrays = ArchivedArrays(path, tuple(shapes))
    return FeatureSet(arrays if lazy else dict(arrays), shapes, origin)


class ArchivedArrays(LazyArrays):
    """Layers of an archive."""

    def _read(self, layer: str) -> NDArray[np.float32]:
        with _opening(self._path) as archive:
            return np.asarray(_read_array(archive, layer), dtype=np.float32)


def _describe(shapes: Mapping[str, tuple[int, ...]], origin: FeatureOrigin) -> dict[str, object]:
    return {
        "mvkit_format": FORMAT_NAME,
        "mvkit_format_version": FORMAT_VERSION,
        "model": origin.model_name,
        "weights_id": origin.weights_id,
        "stimuli": origin.stimuli,
        "stimuli_digest": origin.stimuli_digest,
        "preprocessing": dict(origin.preprocessing),
        "versions": dict(origin.versions),
        "layers": [{"name": layer, "shape": list(shape)} for layer, shape in shapes.items()],
    }


def _read_origin(described: Mapping[str, Any], ids: ImageIds) -> FeatureOrigin:
    return FeatureOrigin(
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
