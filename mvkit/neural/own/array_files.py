"""Named arrays in files of other programs: NumPy's .npy and .npz, MATLAB's .mat of every version, plain HDF5.

Nothing in a file is run: pickled Python objects and MATLAB's objects are refused by name.
"""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, suggest
from mvkit.files import (
    check_self_contained,
    check_unpacked,
    check_unpacked_archive,
    check_unpacked_dataset,
    inspect_file,
    name_file_in_errors,
    open_hdf5,
)

NUMPY_SUFFIXES = (".npy", ".npz")
MATLAB_SUFFIX = ".mat"
HDF5_SUFFIXES = (".h5", ".hdf5")
ARRAY_SUFFIXES = (*NUMPY_SUFFIXES, MATLAB_SUFFIX, *HDF5_SUFFIXES)
#: Name of the only array of a .npy file.
WHOLE = "array"
#: Arrays that a message lists.
_MOST_LISTED = 12
#: All that the readers of NumPy, scipy and HDF5 raise, depending on where the bytes are wrong.
_FAILURES = (
    OSError,
    NameError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    RuntimeError,
    EOFError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_OBJECT_ADVICE = "which only MATLAB reads: save text as char or cellstr(x), tables as arrays"
_PICKLED_ADVICE = "pickled Python objects, which mvkit does not run: save plain numbers or text"


class ArrayFile(ABC):
    """A file of named arrays that is open for reading.

    Parts of MATLAB's structs and groups of HDF5 are named ``struct.field``, elements of cell and struct
    arrays ``cell(1)``, ``struct(2).field``.

    Attributes
    ----------
    path
        The file.
    is_matlab
        Whether MATLAB wrote it, which drops last axes of length 1.
    """

    def __init__(self, path: Path, *, is_matlab: bool = False) -> None:
        self.path = path
        self.is_matlab = is_matlab

    @property
    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name of every array -> shape; texts have shape ()."""

    @abstractmethod
    def load(self, name: str) -> NDArray[Any]:
        """Return an array of the file that is known to be there; text as an array of str."""

    def __contains__(self, name: str) -> bool:
        """Tell whether the file has an array of this name."""
        return name in self.shapes

    def read(self, name: str) -> NDArray[Any]:
        """Return an array: numbers, truth values or text (str), axes as the program that wrote it has them.

        Raises
        ------
        UsageError
            If there is none of this name; names those that there are.
        DataError
            If it holds something else.
        """
        if name not in self.shapes:
            raise UsageError(f"{self.path}: has no '{name}'{suggest(name, self.shapes)}\n{self.describe()}")
        try:
            array = self.load(name)
        except _FAILURES as error:
            raise DataError(f"{self.path}: '{name}' cannot be read ({_first_line(error)})") from error
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
        if array.dtype.kind not in "biufU":
            raise DataError(f"{self.path}: '{name}' holds {array.dtype}; numbers or text can be used")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def describe(self) -> str:
        """Return a line that lists the arrays and their shapes."""
        alike: dict[tuple[str, int], list[str]] = {}
        for name, shape in self.shapes.items():
            alike.setdefault((re.sub(r"\d+", "#", name), len(shape)), []).append(name)
        listed = []
        for names in alike.values():
            shape = self.shapes[names[0]]
            others = f" and {len(names) - 1} more like it" if len(names) > 1 else ""
            listed.append(f"{names[0]}{f' {shape}' if shape else ''}{others}")
        more = len(listed) - _MOST_LISTED
        text = ", ".join(listed[:_MOST_LISTED]) or "nothing"
        return f"it holds: {text}{f' and {more} others' if more > 0 else ''}"


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open a file of arrays by the ending of its name.

    Parameters
    ----------
    path
        ``.npy``, ``.npz``, ``.mat`` (versions 5 to 7.3), ``.h5`` or ``.hdf5``.

    Raises
    ------
    DataError
        If it is missing, damaged, or something else than its name says.
    """
    if problem := inspect_file(path).problem:
        raise DataError(f"{path}: {problem}")
    suffix = path.suffix.lower()
    try:
        is_hdf5 = suffix in HDF5_SUFFIXES or (suffix == MATLAB_SUFFIX and _is_hdf5(path))
        if is_hdf5:
            handle = open_hdf5(path)
        elif suffix == MATLAB_SUFFIX:
            handle = None
        else:
            handle = np.load(path, allow_pickle=False)
    except _FAILURES as error:
        reason = _PICKLED_ADVICE if "allow_pickle" in str(error) else _first_line(error)
        kind = "MATLAB" if suffix == MATLAB_SUFFIX else "HDF5" if suffix in HDF5_SUFFIXES else "NumPy"
        raise DataError(f"{path}: not a readable {kind} file ({reason})") from error
    if isinstance(handle, np.ndarray):
        yield _NumpyFile(path, {WHOLE: handle})
    elif is_hdf5:
        with handle:
            yield _Hdf5File(path, handle, is_matlab=suffix == MATLAB_SUFFIX)
    elif handle is None:
        yield _MatlabFile(path)
    else:
        with handle:
            check_unpacked_archive(handle.zip, path)
            yield _NumpyFile(path, handle)


class _NumpyFile(ArrayFile):
    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(path)
        self._arrays = arrays
        self._shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        if self._shapes is None:
            if isinstance(self._arrays, dict):
                self._shapes = {name: array.shape for name, array in self._arrays.items()}
            else:
                try:
                    self._shapes = {name: _shape_in_archive(self._arrays, name) for name in self._arrays}
                except _FAILURES as error:
                    raise DataError(
                        f"{self.path}: not a readable NumPy file ({_first_line(error)})"
                    ) from error
        return self._shapes

    def load(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self._arrays[name])
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise DataError(f"{self.path}: '{name}' holds {_PICKLED_ADVICE}") from error
            raise


def _shape_in_archive(archive: Any, name: str) -> tuple[int, ...]:
    """Return the shape of an array in a .npz file from its header alone."""
    members = archive.zip.namelist()
    member = f"{name}.npy" if f"{name}.npy" in members else name
    with archive.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape: tuple[int, ...] = read(stream)[0]
    return shape


class _MatlabFile(ArrayFile):
    """A .mat file of version 4 to 7, read by scipy."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, is_matlab=True)
        self._arrays: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        if self._shapes is None:
            import scipy.io
            from scipy.io.matlab import MatReadError

            self._shapes = {}
            try:
                for name, shape, kind in scipy.io.whosmat(self.path):
                    if kind in (
                        "struct",
                        "cell",
                        "char",
                        "object",
                        "opaque",
                        "function",
                        "sparse",
                        "unknown",
                    ):
                        self._add(name, self._variable(name))
                    else:
                        n_bytes = math.prod(shape) * np.dtype(np.float64).itemsize
                        check_unpacked(n_bytes, self.path.stat().st_size, f"{self.path}: '{name}'")
                        self._shapes[name] = tuple(shape)
            except (*_FAILURES, MatReadError, NotImplementedError) as error:
                raise DataError(f"{self.path}: not a readable MATLAB file ({_first_line(error)})") from error
        return self._shapes

    def load(self, name: str) -> NDArray[Any]:
        value = self._arrays[name] if name in self._arrays else self._variable(name)
        if isinstance(value, str):
            raise DataError(f"{self.path}: '{name}' is {value}")
        return np.asarray(value)

    def _variable(self, name: str) -> Any:
        import scipy.io

        loaded = scipy.io.loadmat(self.path, variable_names=[name], chars_as_strings=True)
        return loaded.get(name, f"an object of MATLAB, {_OBJECT_ADVICE}")

    def _add(self, name: str, value: Any) -> None:
        """Note an array, or the parts of a struct or cell array, under their names."""
        names = self._shapes if self._shapes is not None else {}
        if isinstance(value, str) or type(value).__name__ in (
            "MatlabOpaque",
            "MatlabFunction",
            "MatlabObject",
        ):
            names[name], self._arrays[name] = (), f"an object of MATLAB, {_OBJECT_ADVICE}"
        elif hasattr(value, "toarray"):
            self._arrays[name] = value.toarray()
            names[name] = value.shape
        elif value.dtype.names is not None:
            flat = value.reshape(-1, order="F")
            for index, element in enumerate(flat, start=1):
                label = name if len(flat) == 1 else f"{name}({index})"
                for part in value.dtype.names:
                    self._add(f"{label}.{part}", element[part])
        elif value.dtype.kind == "O":
            texts = [_text_of(element) for element in value.reshape(-1, order="F")]
            if texts and all(text is not None for text in texts):
                names[name], self._arrays[name] = (len(texts),), np.array(texts, dtype=str)
            else:
                for index, element in enumerate(value.reshape(-1, order="F"), start=1):
                    self._add(f"{name}({index})", element)
        else:
            if value.dtype.kind == "U":
                # Rows of a char array are padded with blanks.
                value = np.char.rstrip(value.reshape(-1))
                value = value[0] if len(value) == 1 else value
            names[name] = np.shape(value)
            self._arrays[name] = np.asarray(value)


def _text_of(element: Any) -> str | None:
    """Return the text of an element of a cell array, None for anything else."""
    if isinstance(element, np.ndarray) and element.dtype.kind == "U":
        if element.size == 0:
            return ""
        return str(element.reshape(-1)[0]) if element.size == 1 else None
    return None


class _Hdf5File(ArrayFile):
    """A .mat file of version 7.3, or any HDF5 file."""

    def __init__(self, path: Path, file: Any, *, is_matlab: bool) -> None:
        super().__init__(path, is_matlab=is_matlab)
        self._file = file
        self._datasets: dict[str, Any] = {}
        # Groups and cell arrays: each counts once, since they may hold one another.
        self._containers: set[Any] = {file["/"]}
        self._shapes: dict[str, tuple[int, ...]] | None = None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        if self._shapes is None:
            self._shapes = {}
            try:
                with name_file_in_errors(self.path):
                    check_self_contained(self._file)
                for name, node in self._file.items():
                    if node is not None and not name.startswith("#"):
                        self._add(name, node)
            except _FAILURES as error:
                raise DataError(f"{self.path}: not a readable HDF5 file ({_first_line(error)})") from error
        return self._shapes

    def load(self, name: str) -> NDArray[Any]:
        source = self._datasets[name]
        if isinstance(source, str):
            raise DataError(f"{self.path}: '{name}' is {source}")
        if isinstance(source, np.ndarray):
            return source
        check_unpacked_dataset(source, f"{self.path}: '{name}'")
        values = source.asstr()[...] if source.dtype.kind in "OS" else source[...]
        values = np.asarray(values)
        if values.dtype.kind == "O":
            values = values.astype(str)
        if not self.is_matlab:
            return values
        if _matlab_class(source) == "char":
            return np.array(_characters(source))
        # HDF5 counts the axes from the slowest, MATLAB from the fastest.
        values = values.transpose()
        return values.astype(bool) if _matlab_class(source) == "logical" else values

    def _add(self, name: str, node: Any) -> None:
        names = self._shapes if self._shapes is not None else {}
        kind = _matlab_class(node) if self.is_matlab else ""
        if not hasattr(node, "dtype"):
            if node in self._containers:
                return
            self._containers.add(node)
            if "MATLAB_sparse" in node.attrs:
                names[name], self._datasets[name] = (), "a sparse array of MATLAB: save full(x)"
                return
            for part, child in node.items():
                # A link to nothing has no child.
                if child is not None:
                    self._add(f"{name}.{part}", child)
        elif node.shape is None:
            names[name], self._datasets[name] = (), "an empty dataset, without values"
        elif self.is_matlab and "MATLAB_object_decode" in node.attrs:
            names[name], self._datasets[name] = (), f"an object of MATLAB, {_OBJECT_ADVICE}"
        elif self.is_matlab and "MATLAB_empty" in node.attrs:
            shape = tuple(int(size) for size in node[...])
            names[name] = shape
            self._datasets[name] = np.array("") if kind == "char" else np.empty(shape)
        elif self.is_matlab and node.dtype.kind == "O" and _holds_references(node):
            self._add_references(name, node, is_cell=kind == "cell")
        else:
            names[name] = (
                ()
                if kind == "char" and min(node.shape) == 1
                else tuple(node.shape[::-1] if self.is_matlab else node.shape)
            )
            self._datasets[name] = node

    def _add_references(self, name: str, node: Any, *, is_cell: bool) -> None:
        """Add the elements of a cell array, or of one field of a struct array."""
        if node in self._containers:
            return
        self._containers.add(node)
        elements = [self._file[reference] for reference in node[...].transpose().reshape(-1, order="F")]
        names = self._shapes if self._shapes is not None else {}
        if elements and all(_is_char(element) for element in elements):
            texts = [
                "" if "MATLAB_empty" in element.attrs else str(_characters(element)) for element in elements
            ]
            names[name], self._datasets[name] = (len(texts),), np.array(texts, dtype=str)
            return
        for index, element in enumerate(elements, start=1):
            struct, dot, part = name.rpartition(".")
            self._add(f"{name}({index})" if is_cell or not dot else f"{struct}({index}).{part}", element)


def _is_hdf5(path: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))


def _holds_references(node: Any) -> bool:
    import h5py

    return h5py.check_ref_dtype(node.dtype) is not None


def _matlab_class(node: Any) -> str:
    value = node.attrs.get("MATLAB_class", b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_char(node: Any) -> bool:
    return _matlab_class(node) == "char" and hasattr(node, "dtype")


def _characters(node: Any) -> str | NDArray[np.str_]:
    """Return a char array, stored as code units of UTF-16: a text, or its rows without padding."""
    codes = np.atleast_2d(node[...].transpose()).astype("<u2")
    rows = [row.tobytes().decode("utf-16-le", "replace") for row in codes]
    return rows[0] if len(rows) == 1 else np.array([row.rstrip() for row in rows], dtype=str)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
