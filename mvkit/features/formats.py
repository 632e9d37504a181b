"""In which formats features are written, told by a file's name, and read, told by its content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvkit.atomic import replacing
from mvkit.errors import UsageError
from mvkit.features.feature_file import StoredArrays, read_hdf5
from mvkit.features.featureset import FeatureSet
from mvkit.features.npz_file import read_npz, write_npz
from mvkit.naming import unknown_name

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
def hdf5_for(target: Path) -> Iterator[Path]:
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
            write_npz(temporary, StoredArrays(scratch, stored.layers), stored.shapes, stored.origin)
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
