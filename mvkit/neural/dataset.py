"""Stimuli and the selected responses to them, per area and specimen."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.naming import unknown_name
from mvkit.neural.recording import Recording, area_sort_key, joined_column, whole_numbers

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclass(frozen=True, eq=False)
class NeuralDataset:
    """Images and the recordings made while they were shown.

    Attributes
    ----------
    name
        Name of the dataset, or of the file.
    stimuli
        uint8 (n_images, height, width), grey.
    frame_ids
        int64 (n_images,), the source's number of each image.
    units_of_measure
        ``"spikes/s"``, ``"dF/F"``, or what the writer of the file said.
    recordings
        One per area and specimen, areas in the order VISp, VISl, VISal, VISpm,
        VISrl, VISam, then others by name; specimens ascending.
    skipped
        Area -> why none of its specimens passed the selection.
    provenance
        Source file, digest, dates, versions.
    selection
        Resolved settings of the selection and, under ``"dropped"``, the
        specimens that did not pass and why.
    """

    name: str
    stimuli: NDArray[np.uint8]
    frame_ids: NDArray[np.int64]
    units_of_measure: str
    recordings: tuple[Recording, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    selection: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put the recordings in order and refuse arrays that do not belong together.

        Raises
        ------
        DataError
            If stimuli are not uint8 (n_images, height, width), or a recording
            has another number of images, or two recordings share area and specimen.
        """
        if np.ma.is_masked(self.stimuli):
            raise DataError(f"dataset {self.name}: stimuli have masked pixels; fill them")
        object.__setattr__(self, "stimuli", np.asarray(self.stimuli))
        object.__setattr__(
            self, "frame_ids", whole_numbers(self.frame_ids, f"dataset {self.name}: frame_ids")
        )
        if self.stimuli.ndim != 3 or self.stimuli.dtype != np.uint8:
            raise DataError(
                f"dataset {self.name}: stimuli must be uint8 (n_images, height, width), "
                f"not {self.stimuli.dtype} {self.stimuli.shape}"
            )
        ordered = tuple(sorted(self.recordings, key=lambda rec: (area_sort_key(rec.area), rec.specimen)))
        object.__setattr__(self, "recordings", ordered)
        if self.frame_ids.shape != (self.n_images,):
            raise DataError(
                f"dataset {self.name}: {len(self.frame_ids)} frame ids for {self.n_images} stimuli"
            )
        for recording in ordered:
            if recording.n_images != self.n_images:
                raise DataError(
                    f"{recording.label}: responses to {recording.n_images} images, "
                    f"but dataset {self.name} has {self.n_images} stimuli"
                )
        for first, second in itertools.pairwise(ordered):
            if (first.area, first.specimen) == (second.area, second.specimen):
                raise DataError(f"dataset {self.name}: two recordings for {first.label}")

    @property
    def areas(self) -> tuple[str, ...]:
        """Areas that have at least one recording, in order."""
        return tuple(dict.fromkeys(recording.area for recording in self.recordings))

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self.stimuli.shape[0])

    @property
    def n_units(self) -> int:
        """Number of units over all recordings."""
        return sum(recording.n_units for recording in self.recordings)

    def specimens(self, area: str | None = None) -> tuple[int, ...]:
        """Return the ids of the specimens with units in ``area`` (None: in any), ascending.

        Raises
        ------
        UsageError
            If the area is unknown.
        """
        return tuple(sorted({recording.specimen for recording in self._matching(area, None)}))

    def recording(self, area: str, specimen: int) -> Recording:
        """Return one recording.

        Raises
        ------
        UsageError
            If the area is unknown or has no such specimen.
        """
        return self._matching(area, specimen)[0]

    def responses(self, area: str | None = None, specimen: int | None = None) -> NDArray[np.float32]:
        """Return responses, concatenated over the units of all matching recordings.

        Parameters
        ----------
        area, specimen
            None takes all of them.

        Returns
        -------
        float32 (n_trials, n_images, n_units)
            Where recordings differ in their number of trials, the shorter ones
            are followed by NaN.

        Raises
        ------
        UsageError
            If the area or specimen is unknown.
        """
        return _concatenated(self._matching(area, specimen), self.n_images)

    def in_areas(self, areas: Iterable[str]) -> NeuralDataset:
        """Return the same dataset with the recordings of some areas only.

        Raises
        ------
        UsageError
            If an area is unknown.
        """
        kept = [recording for area in dict.fromkeys(areas) for recording in self._matching(area, None)]
        return replace(self, recordings=tuple(kept))

    def unit_table(self) -> pandas.DataFrame:
        """Return one row per unit: ids, area, number of trials, time bins, further columns.

        Rows follow the order of ``recordings``, as the last axis of
        :meth:`responses` does. ``first_time_bin`` and ``last_time_bin`` are -1
        where the source has no time axis.
        """
        import pandas

        names = list(dict.fromkeys(name for recording in self.recordings for name in recording.units))
        columns: dict[str, NDArray[np.generic]] = {
            "unit_id": _stacked([recording.unit_ids for recording in self.recordings], np.int64),
            "specimen_id": self._per_unit([recording.specimen for recording in self.recordings], np.int64),
            "visual_area": self._per_unit([recording.area for recording in self.recordings], object),
            "n_trials": self._per_unit([recording.n_trials for recording in self.recordings], np.int64),
            "first_time_bin": self._per_unit(
                [(rec.time_bins or (-1,))[0] for rec in self.recordings], np.int64
            ),
            "last_time_bin": self._per_unit(
                [(rec.time_bins or (-1,))[-1] for rec in self.recordings], np.int64
            ),
        }
        for name in names:
            if name not in columns:
                columns[name] = joined_column(self.recordings, name)
        return pandas.DataFrame(columns)

    def to_xarray(self) -> xarray.Dataset:
        """Return the same content as an xarray Dataset.

        Variables: ``responses`` float32 (trials, frame_id, units) and
        ``stimuli`` uint8 (frame_id, y, x); the columns of :meth:`unit_table`
        are coordinates on ``units``.
        """
        import xarray

        table = self.unit_table()
        coordinates: dict[str, object] = {"frame_id": self.frame_ids}
        coordinates.update({str(name): ("units", table[name].to_numpy()) for name in table.columns})
        return xarray.Dataset(
            {
                "responses": (
                    ("trials", "frame_id", "units"),
                    self.responses(),
                    {"units_of_measure": self.units_of_measure},
                ),
                "stimuli": (("frame_id", "y", "x"), self.stimuli),
            },
            coords=coordinates,
            attrs={"dataset": self.name},
        )

    def _matching(self, area: str | None, specimen: int | None) -> list[Recording]:
        if area is not None and area not in self.areas:
            if area in self.skipped:
                raise UsageError(f"dataset {self.name}: area {area} was skipped: {self.skipped[area]}")
            raise unknown_name("area", area, self.areas)
        found = [rec for rec in self.recordings if area is None or rec.area == area]
        if specimen is None:
            return found
        matching = [recording for recording in found if recording.specimen == specimen]
        if not matching:
            valid = sorted({str(recording.specimen) for recording in found})
            raise unknown_name(f"specimen of {area or self.name}", str(specimen), valid)
        return matching

    def _per_unit(self, values: list[object], dtype: type) -> NDArray[np.generic]:
        counts = [recording.n_units for recording in self.recordings]
        repeated: NDArray[np.generic] = np.repeat(np.array(values, dtype=dtype), counts)
        return repeated


def _stacked(arrays: list[NDArray[np.int64]], dtype: type) -> NDArray[np.int64]:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _concatenated(recordings: list[Recording], n_images: int) -> NDArray[np.float32]:
    n_trials = max((recording.n_trials for recording in recordings), default=0)
    n_units = sum(recording.n_units for recording in recordings)
    together = np.full((n_trials, n_images, n_units), np.nan, dtype=np.float32)
    start = 0
    for recording in recordings:
        together[: recording.n_trials, :, start : start + recording.n_units] = recording.responses
        start += recording.n_units
    return together
