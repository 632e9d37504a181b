"""One animal's units in one visual area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvkit.errors import DataError

AREA_ORDER = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")


def area_sort_key(area: str) -> tuple[int, str]:
    """Sort areas as in the paper's figures, any others after them by name."""
    return (AREA_ORDER.index(area), "") if area in AREA_ORDER else (len(AREA_ORDER), area)


@dataclass(frozen=True, eq=False)
class Recording:
    """Responses of the units of one specimen (animal) in one area.

    Attributes
    ----------
    area
        Acronym of the visual area, for example ``"VISp"``.
    specimen
        Specimen id (the animal).
    unit_ids
        int64 (n_units,), unique within the recording.
    responses
        float32 (n_trials, n_images, n_units), averaged over time, in the
        dataset's units of measure. NaN = missing trial. Recordings made from
        float64 arrays for writing keep float64.
    time_bins
        Indices of the time bins that were averaged, or None when the source
        has no time axis.
    units
        Further columns, each (n_units,): reliabilities, p values and so on.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.floating]
    time_bins: tuple[int, ...] | None = None
    units: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays whose shapes do not belong together.

        Raises
        ------
        DataError
            Naming the recording and the field.
        """
        if self.responses.ndim != 3:
            raise DataError(
                f"{self.label}: responses must be (n_trials, n_images, n_units), not {self.responses.shape}"
            )
        if self.unit_ids.shape != (self.n_units,):
            raise DataError(
                f"{self.label}: unit_ids has shape {self.unit_ids.shape}, responses have {self.n_units} units"
            )
        for name, column in self.units.items():
            if column.shape != (self.n_units,):
                raise DataError(
                    f"{self.label}: column '{name}' has shape {column.shape}, not ({self.n_units},)"
                )

    @classmethod
    def from_arrays(
        cls,
        values: ArrayLike,
        *,
        unit_ids: ArrayLike,
        area: str,
        specimen: int,
        units: Mapping[str, ArrayLike] | None = None,
    ) -> Recording:
        """Build a recording from plain arrays, to be written with :func:`write_neural_file`.

        Parameters
        ----------
        values
            Numbers (n_trials, n_images, n_units), one response per
            presentation, already averaged over time; NaN = missing. Kept as
            float32 where that loses nothing, else as float64.
        unit_ids
            Whole numbers (n_units,), unique.
        area, specimen
            Acronym of the area and id of the animal.
        units
            Further columns by name, each (n_units,).

        Raises
        ------
        DataError
            If values are not numbers, ids are not whole numbers, or shapes do
            not belong together; the message names the recording and the field.
        """
        label = f"recording {area}/{specimen}"
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise DataError(f"{label}: values must be numbers, not {array.dtype}")
        ids = np.asarray(unit_ids)
        if ids.dtype.kind not in "iu":
            raise DataError(f"{label}: unit_ids must be whole numbers, not {ids.dtype}")
        columns = {name: np.asarray(column) for name, column in (units or {}).items()}
        return cls(str(area), int(specimen), ids.astype(np.int64), _narrowest(array), None, columns)

    @property
    def label(self) -> str:
        """Name for messages, ``recording AREA/SPECIMEN``."""
        return f"recording {self.area}/{self.specimen}"

    @property
    def n_trials(self) -> int:
        """Number of trials recorded for this specimen."""
        return int(self.responses.shape[0])

    @property
    def n_images(self) -> int:
        """Number of images shown."""
        return int(self.responses.shape[1])

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.responses.shape[2])


def joined_column(recordings: Sequence[Recording], name: str) -> NDArray[np.generic]:
    """Concatenate a unit column over recordings.

    Recordings without it get NaN, or "" in a column of text.

    Raises
    ------
    DataError
        If the column is text in one recording and numbers in another.
    """
    present = [recording for recording in recordings if name in recording.units]
    texts = [recording for recording in present if recording.units[name].dtype.kind in "UO"]
    if texts and len(texts) < len(present):
        other = next(recording for recording in present if recording.units[name].dtype.kind not in "UO")
        raise DataError(f"column '{name}' is text in {texts[0].label} but numbers in {other.label}")
    missing = "" if texts else np.nan
    parts = [
        recording.units[name] if name in recording.units else np.full(recording.n_units, missing)
        for recording in recordings
    ]
    joined: NDArray[np.generic] = np.concatenate(parts)
    return joined


def _narrowest(array: NDArray[np.generic]) -> NDArray[np.floating]:
    """Return float32 where every value survives it, else float64."""
    if array.dtype == np.float32:
        return array.astype(np.float32, copy=False)
    wide = array.astype(np.float64)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide, equal_nan=True) else wide
