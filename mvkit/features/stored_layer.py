"""A layer's features in a raw file, read a few columns at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

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
