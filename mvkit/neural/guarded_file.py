"""A file for HDF5 to write to that survives a full disk.

HDF5 cannot close a file whose last writes fail: ids stay open and the process
may crash. This file keeps the first error to itself and takes further writes
without storing them, so that HDF5 closes in peace; the error is raised then.
"""

from __future__ import annotations

import os
from pathlib import Path


class GuardedFile:
    """A file for reading and writing, in the form that h5py's file-object driver wants.

    Parameters
    ----------
    path
        The file.
    is_new
        Whether to create it, or empty an existing one; otherwise it exists and keeps what it holds.
    """

    def __init__(self, path: Path, *, is_new: bool = True) -> None:
        self._file = path.open("w+b" if is_new else "r+b", buffering=0)
        self._error: OSError | None = None
        #: Whether a first error is raised where it happens, besides being kept.
        self.is_open_for_data = False

    def raise_kept(self) -> None:
        """Raise the first error of writing, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:
        """Write all of ``data`` at the current place; after an error, nothing."""
        view = memoryview(data).cast("B")
        size = len(view)
        if self._error is None:
            try:
                while len(view):
                    view = view[self._file.write(view) or 0 :]
            except OSError as error:
                self._keep(error)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length."""
        wanted = self._file.tell() if size is None else size
        if self._error is None:
            try:
                self._file.truncate(wanted)
            except OSError as error:
                self._keep(error)
        return wanted

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from the current place."""
        return self._file.readinto(buffer) or 0

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes from the current place."""
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the current place."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _keep(self, error: OSError) -> None:
        self._error = OSError(error.errno, error.strerror, self._file.name)
        if self.is_open_for_data:
            raise self._error
