"""Buffers for the features of a forward pass, in memory or on disk."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, wording
from mvkit.features.feature_file import DISK_FULL
from mvkit.features.feature_set import LayerInfo
from mvkit.files import Lock, is_abandoned, make_folder
from mvkit.machine import available_memory
from mvkit.paths import expand

_VALUE = np.dtype("<f4")


@dataclass(frozen=True)
class StoredLayer:
    """Features that lie on disk, as float32 rows one after the other.

    Reading copies from the file and maps nothing, so that what was read does not count as memory in use.

    Attributes
    ----------
    path
        The file; nothing but values.
    shape
        (n_images, n_features).
    """

    path: Path
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """The dtype of the values."""
        return _VALUE

    def columns(self, begin: int, stop: int) -> NDArray[np.float32]:
        """Return features ``begin`` to ``stop`` of all images, float32 (n_images, n_columns).

        Raises
        ------
        DataError
            If the file is gone or too short.
        """
        n_images, n_features = self.shape
        stop = min(stop, n_features)
        block = np.empty((n_images, stop - begin), _VALUE)
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                for image in range(n_images):
                    offset = (image * n_features + begin) * _VALUE.itemsize
                    if os.preadv(descriptor, [block[image].data], offset) != block[image].nbytes:
                        raise DataError(f"{self.path}: features end early; the file was changed while in use")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{self.path}: features cannot be read ({error})") from error
        return block

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        """Read everything."""
        return self.columns(0, self.shape[1]).astype(dtype or _VALUE, copy=False)


#: Features of all layers together that are held in memory at most.
IN_MEMORY_BYTES = 512 * 2**20

_LOCK = ".lock"
_IN_USE, _BEING_MADE = "pass-", "new-"
#: Making a folder and locking it takes a moment.
_ABANDONED_S = 3600.0


class FeatureBuffer:
    """Collects the features of a forward pass, batch after batch, by layer.

    Parameters
    ----------
    layers
        Layer -> its shape for one image.
    n_images
        Number of images.
    folder
        Where files go; None: everything stays in memory.
    """

    def __init__(self, layers: Mapping[str, LayerInfo], n_images: int, folder: Path | None) -> None:
        self._shapes = {name: (n_images, info.n_features) for name, info in layers.items()}
        self._folder = folder
        self._arrays: dict[str, NDArray[np.float32]] = {}
        if folder is None:
            self._arrays = {name: np.empty(shape, np.float32) for name, shape in self._shapes.items()}
        # Names of layers may hold anything; their files are numbered.
        self._files = {name: f"{index}.f32" for index, name in enumerate(layers)}

    def write(self, start: int, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Add features of the images from ``start`` on, which follow those added before.

        Raises
        ------
        DataError
            If the disk is full.
        """
        for name in self._shapes:
            values = rows[name]
            if self._folder is None:
                self._arrays[name][start : start + len(values)] = values
                continue
            path = self._folder / self._files[name]
            try:
                # A file is the rows one after the other, so that appending is all there is to do.
                with path.open("ab", buffering=0) as file:
                    _write_all(file, np.ascontiguousarray(values, "<f4"))
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                raise DataError(
                    f"{self._folder}: the disk is full ({error.strerror}) while features are stored there\n"
                    f"free some, name another folder with {_scratch_option()}, or take fewer layers"
                ) from error

    def features(self) -> dict[str, NDArray[np.float32] | StoredLayer]:
        """Return layer -> (n_images, n_features), in memory or on disk."""
        if self._folder is None:
            return dict(self._arrays)
        return {
            name: StoredLayer(self._folder / self._files[name], shape) for name, shape in self._shapes.items()
        }


def _scratch_option() -> str:
    return wording("--set machine.scratch=DIR", "resources=Resources(scratch=DIR)")


@contextmanager
def feature_buffer(
    layers: Mapping[str, LayerInfo], n_images: int, *, scratch: Path, in_memory: int = IN_MEMORY_BYTES
) -> Iterator[FeatureBuffer]:
    """Hold the features of some layers for the length of a block.

    Parameters
    ----------
    layers
        Layer -> its shape for one image.
    n_images
        Number of images.
    scratch
        Folder in which a private folder is made if memory is not enough.
    in_memory
        Bytes that are held in memory at most; less where less than twice that much is available.

    Raises
    ------
    DataError
        Before anything is written: if the disk cannot hold the features.
    """
    needed = sum(info.n_bytes(n_images) for info in layers.values())
    available = available_memory()
    if needed <= (in_memory if available is None else min(in_memory, available // 2)):
        yield FeatureBuffer(layers, n_images, None)
        return
    with _private_folder(scratch) as folder:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DataError(
                f"{scratch}: {needed / 1e9:.2f} GB are needed for the features of {len(layers)} layers while "
                f"they are scored, and {free / 1e9:.2f} GB are free\n"
                f"free some, name another folder with {_scratch_option()}, or take fewer layers"
            )
        yield FeatureBuffer(layers, n_images, folder)


def remove_abandoned(scratch: Path) -> None:
    """Remove the folders of killed processes from a scratch folder."""
    for folder in scratch.glob(f"{_BEING_MADE}*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > _ABANDONED_S
        except OSError:  # it has its final name by now
            continue
        if is_old:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in scratch.glob(f"{_IN_USE}*"):
        # A folder without a running owner is never used again.
        if is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _private_folder(scratch: Path) -> Iterator[Path]:
    name, scratch = uuid.uuid4().hex, expand(scratch)
    try:
        make_folder(scratch)
        remove_abandoned(scratch)
        # It gets its final name only when its lock is held.
        (scratch / f"{_BEING_MADE}{name}").mkdir()
    except OSError as error:
        raise DataError(
            f"{scratch}: features cannot be stored there ({error})\n"
            f"name another folder with {_scratch_option()}"
        ) from error
    made, folder = scratch / f"{_BEING_MADE}{name}", scratch / f"{_IN_USE}{name}"
    lock = Lock(made / _LOCK)
    try:
        lock.acquire()
        made.rename(folder)
        yield folder
    finally:
        for path in (made, folder):
            shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _write_all(file: object, values: NDArray[np.float32]) -> None:
    """Write all bytes: a raw file may take fewer than it is given, for instance more than 2 GiB."""
    rest = values.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[file.write(rest) :]  # type: ignore[attr-defined]
