"""Stimuli and the selected responses to them, per area and specimen."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvkit.display import drawing, html_table
from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.files import check_output_path, natural_key, shorten
from mvkit.neural.netcdf import beyond_float
from mvkit.paths import expand

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure

    from mvkit.neural.selection import SelectionOutcome

#: What one line about a dataset has room for.
_MOST_AREAS, _LONGEST_NAME = 12, 40
#: Unit column with the names of animals that are not called by a number, and of units likewise.
ANIMAL = "animal"
UNIT_NAME = "unit_name"

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_logger = logging.getLogger(__name__)

AREA_ORDER = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")


@dataclass(frozen=True, eq=False, repr=False)
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
        ``"spikes/s"``, ``"dF/F"``, or what the writer of the file gave.
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
    selection_outcome
        Every unit of the file and why it was excluded; None where nothing was selected.
    frame_rate_hz
        Frames per second of a movie, whose frames the images are, in the order of time; None: still images.
    field_of_view_deg
        Degrees of visual angle that the width of an image spans; None: not known.
    """

    name: str
    stimuli: NDArray[np.uint8]
    frame_ids: NDArray[np.int64]
    units_of_measure: str
    recordings: tuple[Recording, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    selection: Mapping[str, object] = field(default_factory=dict)
    selection_outcome: SelectionOutcome | None = None
    frame_rate_hz: float | None = None
    field_of_view_deg: float | None = None

    def __post_init__(self) -> None:
        """Sort the recordings and check that all arrays agree.

        Raises
        ------
        DataError
            If stimuli are not uint8 (n_images, height, width), or a recording
            has another number of images, or two recordings share area and specimen, or frames of a movie are
            missing.
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
        check_frames(self.frame_rate_hz, self.frame_ids, f"dataset {self.name}")
        check_field_of_view(self.field_of_view_deg, f"dataset {self.name}")
        for recording in ordered:
            if recording.n_images != self.n_images:
                raise DataError(
                    f"{recording.label}: responses to {recording.n_images} images, "
                    f"but dataset {self.name} has {self.n_images} stimuli"
                )
        for first, second in itertools.pairwise(ordered):
            if (first.area, first.specimen) == (second.area, second.specimen):
                raise DataError(f"dataset {self.name}: two recordings for {first.label}")

    @classmethod
    def from_arrays(  # noqa: PLR0913
        cls,
        responses: Mapping[str, Mapping[str | int, ArrayLike] | ArrayLike],
        stimuli: ArrayLike,
        *,
        axes: str | Sequence[str] = ("trials", "images", "units"),
        unit_ids: Mapping[str, Mapping[str | int, ArrayLike] | ArrayLike] | None = None,
        frame_ids: ArrayLike | None = None,
        name: str = "recordings",
        units_of_measure: str = "a.u.",
        frame_rate_hz: float | None = None,
        field_of_view_deg: float | None = None,
    ) -> NeuralDataset:
        """Make a dataset of one's own recordings.

        Parameters
        ----------
        responses
            Area -> animal -> numbers (n_trials, n_images, n_units), one response per presentation, averaged
            over time; NaN = missing. The number of trials may differ between recordings. Animals are called
            by name or whole number; an array in place of animals is that of animal 1.
        stimuli
            Images in the order of the responses: uint8 (n_images, height, width). Colour, other integers and
            floats are converted to 8-bit grey (:func:`mvkit.neural.grey_images.to_grey`), which is logged and
            noted in ``provenance["stimuli"]``.
        axes
            Order of the axes of the responses.
        unit_ids
            Area -> animal -> whole numbers or names (n_units,), unique within the recording. Default: units
            are counted through all recordings, from 0.
        frame_ids
            Whole numbers (n_images,), labels of the images; default 0, 1, ...
        name
            Name of the dataset.
        units_of_measure
            Of the responses, for example ``"spikes/s"`` or ``"dF/F"``; default: arbitrary units.
        frame_rate_hz
            Frames per second of a movie, whose frames the images are, in the order of time; default: images.
        field_of_view_deg
            Degrees of visual angle that the width of an image spans, for filters by visual acuity.

        Returns
        -------
        NeuralDataset
            Where animals have names, they are numbered 1, 2, ... in the order of their names, and
            ``Recording.animal`` (stored as the unit column ``animal``) has the name. Names of units become
            the unit column ``unit_name`` and ids are counted.

        Raises
        ------
        DataError
            If responses, ids and stimuli do not agree, or hold infinity; names the recording.
        UsageError
            If the order of the axes does not fit; says which does.

        Examples
        --------
        >>> import numpy as np
        >>> from mvkit import NeuralDataset
        >>> rng = np.random.default_rng(0)
        >>> images = rng.integers(0, 256, (118, 64, 64), dtype=np.uint8)
        >>> rates = rng.gamma(1.0, size=(118, 20)) + rng.standard_normal((50, 118, 20))
        >>> dataset = NeuralDataset.from_arrays({"VISp": {"mouse1": rates}}, images)
        >>> dataset.recordings[0].animal, dataset.n_units
        ('mouse1', 20)
        >>> dataset.save("mine.h5")  # doctest: +SKIP
        """
        from mvkit.neural.grey_images import to_grey
        from mvkit.neural.response_axes import AxisLengths, find_axes, parse_axes

        given = _by_recording(responses, "responses")
        ids = {} if unit_ids is None else _by_recording(unit_ids, "unit_ids")
        for area, animal in ids.keys() - given.keys():
            raise DataError(f"unit_ids: there are no responses of {area}/{animal}")
        order = parse_axes(axes)
        sizes = {np.shape(values)[order.index("images")] for values in given.values() if np.ndim(values) == 3}
        grey = to_grey(stimuli, n_images=sizes.pop() if len(sizes) == 1 else None)
        if grey.note:
            _logger.info("stimuli: %s", grey.note)
        arrays = {}
        for key, values in given.items():
            array = plain_array(values, f"responses of {key[0]}/{key[1]}")
            labels = ids.get(key)
            lengths = AxisLengths(len(grey.images), None if labels is None else len(np.ravel(labels)))
            find_axes(array.shape, lengths, order, what=f"responses of {key[0]}/{key[1]}", option="axes=")
            arrays[key] = array.transpose([order.index(axis) for axis in ("trials", "images", "units")])
        return cls(
            name=name,
            stimuli=grey.images,
            frame_ids=np.arange(len(grey.images)) if frame_ids is None else frame_ids,  # type: ignore[arg-type]
            units_of_measure=units_of_measure,
            recordings=_number_recordings(arrays, ids),
            provenance={"stimuli": grey.note} if grey.note else {},
            frame_rate_hz=frame_rate_hz,
            field_of_view_deg=field_of_view_deg,
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the recordings to a neural file, which ``open_dataset`` and ``mvkit score --dataset`` read.

        Responses are stored as they are here: averaged over time, and only the units that are selected.

        Parameters
        ----------
        path
            File to write, for example ``mine.h5``.
        overwrite
            Replace a file that is there.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        UsageError
            If the file exists, or is a folder.
        DataError
            If a neural file cannot hold the dataset; see :func:`mvkit.neural.write_neural_file`.
        """
        from mvkit.neural.neural_file import write_neural_file

        target = expand(path)
        check_output_path(target, overwrite=overwrite, example="mine.h5")
        return write_neural_file(
            target,
            self.recordings,
            stimuli=self.stimuli,
            units_of_measure=self.units_of_measure,
            name=self.name,
            source=self.provenance,
            frame_ids=self.frame_ids,
            frame_rate_hz=self.frame_rate_hz,
            field_of_view_deg=self.field_of_view_deg,
        )

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

        Parameters
        ----------
        area, specimen
            Acronym of the area and id of the animal.

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
        return _concatenate_responses(self._matching(area, specimen), self.n_images)

    def in_areas(self, areas: Iterable[str]) -> NeuralDataset:
        """Return the same dataset with the recordings of some areas only.

        Parameters
        ----------
        areas
            Acronyms.

        Raises
        ------
        UsageError
            If an area is unknown.
        """
        recordings = [one for area in dict.fromkeys(areas) for one in self._matching(area, None)]
        return replace(self, recordings=tuple(recordings))

    def unit_table(self) -> pandas.DataFrame:
        """Return one row per unit: ids, area, number of trials, time bins, further columns.

        Rows follow the order of ``recordings``, as the last axis of
        :meth:`responses` does. ``first_time_bin`` and ``last_time_bin`` are -1
        where the source has no time axis.
        """
        import pandas

        recordings = self.recordings
        counts = [recording.n_units for recording in recordings]

        def per_unit(values: list[object], dtype: type) -> NDArray[np.generic]:
            return np.repeat(np.array(values, dtype=dtype), counts)

        ids = [np.empty(0, np.int64), *(recording.unit_ids for recording in recordings)]
        columns: dict[str, NDArray[np.generic]] = {
            "unit_id": np.concatenate(ids),
            "specimen_id": per_unit([recording.specimen for recording in recordings], np.int64),
            "visual_area": per_unit([recording.area for recording in recordings], object),
            "n_trials": per_unit([recording.n_trials for recording in recordings], np.int64),
            "first_time_bin": per_unit([(rec.time_bins or (-1,))[0] for rec in recordings], np.int64),
            "last_time_bin": per_unit([(rec.time_bins or (-1,))[-1] for rec in recordings], np.int64),
        }
        for name in dict.fromkeys(name for recording in recordings for name in recording.units):
            if name not in columns:
                columns[name] = concatenate_column(recordings, name)
        return pandas.DataFrame(columns)

    def to_pandas(self) -> pandas.DataFrame:
        """Return :meth:`unit_table`: one row per unit."""
        return self.unit_table()

    def plot_reliability(self, *, fraction: bool = False, style: Any = None) -> Figure:
        """Draw the split-half reliability of every area over time bins.

        Parameters
        ----------
        fraction
            Whether each area's curve is divided by its maximum.
        style
            :class:`mvkit.report.figures.FigureStyle`: width in inches, titles.

        Returns
        -------
        Figure
            Of matplotlib.

        Raises
        ------
        DataError
            If the recordings have no time bins or reliabilities (``mvkit fetch reliability FILE`` measures
            them), or were not opened by :func:`mvkit.open_dataset`.
        """
        draw = drawing("draw_reliability")
        return draw(
            self._facts(), dataset=self.name, selection=self._preset(), fraction=fraction, style=style
        )

    def plot_reliability_histogram(self, *, style: Any = None) -> Figure:
        """Draw how many units of the file have which split-half reliability, with the selection's threshold.

        Parameters
        ----------
        style
            :class:`mvkit.report.figures.FigureStyle`: width in inches, titles.

        Returns
        -------
        Figure
            Of matplotlib: a panel per area.

        Raises
        ------
        DataError
            As :meth:`plot_reliability`, but time bins are not needed.
        """
        draw = drawing("draw_reliability_histogram")
        return draw(self._facts(), dataset=self.name, selection=self._preset(), style=style)

    def _facts(self) -> Any:
        """Read the reliabilities of all units of the file, also of those that were not selected."""
        from mvkit.neural.open import read_unit_facts

        source = str(self.provenance.get("file", ""))
        if not source:
            raise DataError(
                f"dataset {self.name}: reliabilities are read from its neural file, and it has none\n"
                "write it with mvkit.neural.write_neural_file, and measure them: mvkit fetch reliability FILE"
            )
        _, facts = read_unit_facts(self.name if source == "in memory" else source)
        return facts

    def _preset(self) -> str:
        """Return the name of the selection that was made."""
        name = str(self.selection.get("name", "none"))
        return name if name in ("code", "paper") else "none"

    def recording_table(self) -> pandas.DataFrame:
        """Return one row per recording: area, animal, specimen, numbers of trials, images and units.

        ``missing`` is the fraction of responses that are missing (NaN).
        """
        import pandas

        return pandas.DataFrame(
            {
                "area": [recording.area for recording in self.recordings],
                "animal": [recording.animal for recording in self.recordings],
                "specimen": [recording.specimen for recording in self.recordings],
                "n_trials": [recording.n_trials for recording in self.recordings],
                "n_images": [recording.n_images for recording in self.recordings],
                "n_units": [recording.n_units for recording in self.recordings],
                "missing": [float(np.isnan(recording.responses).mean()) for recording in self.recordings],
            }
        )

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

    def __repr__(self) -> str:
        """Describe the dataset in a line or two."""
        areas = ", ".join(f"{area} {self._count(area, 'n_units')}" for area in self.areas[:_MOST_AREAS])
        more = ", ..." if len(self.areas) > _MOST_AREAS else ""
        return (
            f"NeuralDataset({shorten(self.name, _LONGEST_NAME)}: {self.n_images} images, "
            f"{self.n_units} units of {len(self.specimens())} animals, "
            f"{shorten(self.units_of_measure, _LONGEST_NAME)}; "
            f"units by area: {areas}{more})"
        )

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: animals, units and trials by area."""
        rows = [
            (area, len(self.specimens(area)), self._count(area, "n_units"), self._trials(area))
            for area in self.areas
        ]
        height, width = self.stimuli.shape[1:]
        title = (
            f"{self.name}: {self.n_images} images of {height} x {width} px, {self.n_units:,} units of "
            f"{len(self.specimens())} animals ({self.units_of_measure})"
        )
        skipped = [f"{area}: {reason}" for area, reason in self.skipped.items()]
        note = f"selection of units: {self.selection['name']}" if "name" in self.selection else ""
        if skipped:
            note += f"{'; ' if note else ''}left out: {'; '.join(skipped)}"
        return html_table(title, ("area", "animals", "units", "trials"), rows, note=note)

    def _count(self, area: str, what: str) -> int:
        return sum(getattr(recording, what) for recording in self._matching(area, None))

    def _trials(self, area: str) -> int | str:
        numbers = {recording.n_trials for recording in self._matching(area, None)}
        return min(numbers) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"

    def _matching(self, area: str | None, specimen: int | None) -> list[Recording]:
        if area is not None and area not in self.areas:
            if area in self.skipped:
                raise UsageError(f"dataset {self.name}: area {area} was skipped: {self.skipped[area]}")
            raise unknown_name("area", area, self.areas)
        in_area = [rec for rec in self.recordings if area is None or rec.area == area]
        if specimen is None:
            return in_area
        matching = [recording for recording in in_area if recording.specimen == specimen]
        if not matching:
            valid = sorted({str(recording.specimen) for recording in in_area})
            raise unknown_name(f"specimen of {area or self.name}", str(specimen), valid)
        return matching


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Responses of the units of one specimen (animal) in one area.

    Attributes
    ----------
    area
        Acronym of the visual area, for example ``"VISp"``; bytes are decoded.
    specimen
        Specimen id (the animal), a whole number.
    unit_ids
        int64 (n_units,), unique within the recording.
    responses
        float32 (n_trials, n_images, n_units), averaged over time, in the
        dataset's units of measure. NaN = missing trial. float64 where float32
        would lose something.
    time_bins
        Indices of the time bins that were averaged, or None when the source
        has no time axis.
    units
        Further columns, each (n_units,): reliabilities, p values and so on.

    Lists, arrays of any byte order, masked arrays (masked = missing) and other
    types of number are accepted in all fields and converted to the types above.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.floating]
    time_bins: tuple[int, ...] | None = None
    units: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Convert all fields to their types; refuse values that would change, and shapes that do not agree.

        Raises
        ------
        DataError
            Naming the recording and the field.
        """
        label = f"recording {_readable(self.area)}/{_readable(self.specimen)}"
        changed = {
            "area": as_text(self.area, f"{label}: area"),
            "specimen": _specimen(self.specimen, label),
            "responses": _as_floats(self.responses, f"{label}: responses"),
            "unit_ids": whole_numbers(self.unit_ids, f"{label}: unit_ids"),
            "units": {
                as_text(name, f"{label}: name of a column"): _column(column, f"{label}: column '{name}'")
                for name, column in self.units.items()
            },
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)
        if self.responses.ndim != 3:
            raise DataError(
                f"{self.label}: responses must be (n_trials, n_images, n_units), not {self.responses.shape}"
            )
        if self.unit_ids.shape != (self.n_units,):
            raise DataError(
                f"{self.label}: unit_ids has shape {self.unit_ids.shape}, responses have {self.n_units} units"
            )
        ids, counts = np.unique(self.unit_ids, return_counts=True)
        if len(ids) < self.n_units:
            raise DataError(f"{self.label}: unit_ids: {first_values(ids[counts > 1])} occurs more than once")
        for name, column in self.units.items():
            if column.shape != (self.n_units,):
                raise DataError(
                    f"{self.label}: column '{name}' has shape {column.shape}, not ({self.n_units},)"
                )

    def __repr__(self) -> str:
        """Describe the recording in one line."""
        return (
            f"Recording({shorten(self.area, _LONGEST_NAME)}, specimen {self.specimen}: "
            f"{self.n_trials} trials, {self.n_images} images, {self.n_units} units)"
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
            presentation, already averaged over time; NaN = missing. Stored as
            float32 where that loses nothing, else as float64. Elements of a
            masked array that are masked are missing.
        unit_ids
            Whole numbers (n_units,), unique.
        area, specimen
            Acronym of the area and id of the animal.
        units
            Further columns by name, each (n_units,).

        Returns
        -------
        Recording
            Responses float32 or float64 (n_trials, n_images, n_units).

        Raises
        ------
        DataError
            If values are not numbers, ids are not whole numbers, or shapes do
            not agree; the message names the recording and the field.
        """
        label = f"recording {_readable(area)}/{_readable(specimen)}"
        array = plain_array(values, f"{label}: values")
        if array.dtype.kind not in "fiu":
            raise DataError(f"{label}: values must be numbers, not {_type_of(array)}")
        return cls(area, specimen, unit_ids, array, None, units or {})  # type: ignore[arg-type]

    @property
    def animal(self) -> str:
        """Name of the animal: that of the unit column ``animal``, else the specimen's number."""
        names = self.units.get(ANIMAL)
        if names is None or names.dtype.kind != "U" or not len(names) or not names[0]:
            return str(self.specimen)
        return str(names[0])

    @property
    def label(self) -> str:
        """Name for messages, ``recording AREA/ANIMAL``."""
        return f"recording {self.area}/{self.animal}"

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


def _by_recording(
    nested: Mapping[str, Mapping[str | int, ArrayLike] | ArrayLike], what: str
) -> dict[tuple[str, str], ArrayLike]:
    """Return (area, animal as text) -> what is given for it."""
    if not isinstance(nested, Mapping):
        raise DataError(f'{what} must be {{"AREA": {{"ANIMAL": array}}}}, not {type(nested).__name__}')
    flat: dict[tuple[str, str], ArrayLike] = {}
    for area, animals in nested.items():
        of_area = animals if isinstance(animals, Mapping) else {1: animals}
        for animal, values in of_area.items():
            if not isinstance(animal, str | int | np.integer) or not str(animal).strip():
                raise DataError(f"{what}: animal {animal!r} of {area}: give a name or a whole number")
            key = (area, str(animal).strip())
            if key in flat:
                raise DataError(f"{what}: animal {key[1]} of {area} is given twice")
            flat[key] = values
    if not flat:
        raise DataError(f"{what} are empty")
    return flat


def _number_recordings(
    arrays: Mapping[tuple[str, str], NDArray[Any]], unit_ids: Mapping[tuple[str, str], ArrayLike]
) -> tuple[Recording, ...]:
    """Make recordings with numbers for animals and units; names are kept in unit columns."""
    animals = sorted({animal for _, animal in arrays}, key=natural_key)
    are_numbers = all(_WHOLE_NUMBER.fullmatch(animal) for animal in animals)
    numbers = {animal: int(animal) if are_numbers else count for count, animal in enumerate(animals, start=1)}
    recordings = []
    first = 0
    for area, animal in sorted(arrays, key=lambda key: (area_sort_key(key[0]), numbers[key[1]])):
        values = arrays[area, animal]
        label = f"recording {area}/{animal}"
        if np.isinf(values).any() if values.dtype.kind == "f" else False:
            trial, image, unit = np.argwhere(np.isinf(values))[0].tolist()
            raise DataError(
                f"{label}: infinity at trial {trial}, image {image}, unit {unit} (counted from 0); "
                "mark missing presentations with NaN"
            )
        n_units = values.shape[2]
        columns: dict[str, ArrayLike] = {} if are_numbers else {ANIMAL: [animal] * n_units}
        ids: ArrayLike = np.arange(first, first + n_units)
        if (area, animal) in unit_ids:
            given = plain_array(unit_ids[area, animal], f"{label}: unit_ids").reshape(-1)
            names = [as_text(one, f"{label}: unit_ids") for one in given.tolist()] if _is_text(given) else []
            if not names:
                ids = given
            elif all(_WHOLE_NUMBER.fullmatch(one) for one in names):
                ids = np.array([int(one) for one in names])
            elif len(set(names)) < len(names):
                twice = next(one for one in names if names.count(one) > 1)
                raise DataError(f"{label}: unit_ids: '{twice}' occurs more than once")
            else:
                columns[UNIT_NAME] = names
        first += n_units
        recordings.append(
            Recording.from_arrays(values, unit_ids=ids, area=area, specimen=numbers[animal], units=columns)
        )
    return tuple(recordings)


def _is_text(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "US" or (
        values.dtype.kind == "O" and all(isinstance(one, str | bytes) for one in values.flat)
    )


def area_sort_key(area: str) -> tuple[int, str]:
    """Sort areas as in the paper's figures, any others after them by name."""
    return (AREA_ORDER.index(area), "") if area in AREA_ORDER else (len(AREA_ORDER), area)


def concatenate_column(recordings: Sequence[Recording], name: str) -> NDArray[np.generic]:
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
    if joined.dtype.kind == "f":
        for recording, part in zip(recordings, parts, strict=True):
            if (
                part.dtype.kind in "iu"
                and part.size
                and not np.array_equal(part, part.astype(np.float64).astype(part.dtype))
            ):
                raise DataError(
                    f"column '{name}': whole numbers of {recording.label} are beyond 2**53, "
                    "too large beside missing or unsigned ones of other recordings; give it as text"
                )
    return joined


def _concatenate_responses(recordings: list[Recording], n_images: int) -> NDArray[np.float32]:
    n_trials = max((recording.n_trials for recording in recordings), default=0)
    n_units = sum(recording.n_units for recording in recordings)
    responses = np.full((n_trials, n_images, n_units), np.nan, dtype=np.float32)
    start = 0
    for recording in recordings:
        responses[: recording.n_trials, :, start : start + recording.n_units] = recording.responses
        start += recording.n_units
    return responses


def plain_array(values: ArrayLike, what: str) -> NDArray[Any]:
    """Return an array in the machine's byte order; masked elements become NaN.

    Whole numbers with some masked become float64 where that is exact, else objects.

    Parameters
    ----------
    values
        Array, masked array, or nested lists.
    what
        Recording and field, for messages.

    Raises
    ------
    DataError
        If it makes no array.
    """
    try:
        if isinstance(values, list | tuple) and any(isinstance(part, np.ma.MaskedArray) for part in values):
            values = np.ma.stack(values)
        array = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DataError(f"{what} cannot be made an array ({str(error).splitlines()[0]})") from error
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not isinstance(array, np.ma.MaskedArray):
        return array
    mask = np.ma.getmaskarray(array)
    data: NDArray[Any] = array.data
    if not mask.any():
        return data
    if data.dtype.kind == "f":
        return np.where(mask, data.dtype.type(np.nan), data)
    if data.dtype.kind in "iub" and not (data.dtype.kind != "b" and beyond_float(data[~mask])):
        return np.where(mask, np.nan, data.astype(np.float64))
    masked: NDArray[Any] = data.astype(object)
    masked[mask] = None
    return masked


def check_field_of_view(field_of_view_deg: float | None, what: str) -> None:
    """Raise a DataError that names ``what`` if a field of view is no angle above 0 and up to 360 degrees."""
    if field_of_view_deg is not None and not 0 < field_of_view_deg <= 360:
        raise DataError(
            f"{what}: field_of_view_deg is {field_of_view_deg}; needed: degrees, above 0, up to 360"
        )


def check_frames(frame_rate_hz: float | None, frame_ids: NDArray[np.int64], what: str) -> None:
    """Check that images that are said to be a movie are its frames, one after the other.

    Parameters
    ----------
    frame_rate_hz
        None: they are no movie.
    frame_ids
        int64 (n_images,), numbers of the images.
    what
        Where they are from, for the message.

    Raises
    ------
    DataError
        If the rate is no positive number, or numbers do not ascend by one.
    """
    if frame_rate_hz is None:
        return
    if not (math.isfinite(frame_rate_hz) and frame_rate_hz > 0):
        raise DataError(f"{what}: frame_rate_hz is {frame_rate_hz}; needed: frames per second, above 0")
    steps = np.flatnonzero(np.diff(frame_ids) != 1)
    if len(steps):
        before, after = frame_ids[steps[0]], frame_ids[steps[0] + 1]
        raise DataError(
            f"{what}: frames of a movie must follow one another, but {after} comes after {before} "
            f"({len(steps)} such places): clips of frames would not be what was shown"
        )


def whole_numbers(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """Return whole numbers as int64.

    Parameters
    ----------
    values
        Integers, or floats that hold nothing else and may not have been rounded.
    what
        Recording and field, for messages.

    Raises
    ------
    DataError
        If some are missing, no whole numbers, or beyond int64.
    """
    array = plain_array(values, what)
    if array.dtype.kind == "O" and all(
        isinstance(item, int | np.integer) and not isinstance(item, bool) for item in array.flat
    ):
        if any(not -(1 << 63) <= int(item) < 1 << 63 for item in array.flat):
            raise DataError(f"{what} are too large: whole numbers from -2**63 to 2**63 - 1 can be stored")
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise DataError(f"{what} must be whole numbers; {int(np.isnan(array).sum())} are missing")
        fractions = array[array != np.trunc(array)]
        if fractions.size:
            raise DataError(f"{what} must be whole numbers, not {array.dtype} ({first_values(fractions)})")
        limit = 1 << min(np.finfo(array.dtype).nmant + 1, 53)
        if array.size and np.abs(array).max() > limit:
            raise DataError(
                f"{what} must be whole numbers; {array.dtype} cannot hold all of them above {limit}, "
                "so they may have changed: give integers"
            )
    elif array.dtype.kind not in "iu":
        raise DataError(f"{what} must be whole numbers, not {_type_of(array)}")
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 1 << 63:
        raise DataError(f"{what} are too large ({array.max()}): whole numbers below 2**63 can be stored")
    return array.astype(np.int64, copy=False)


def as_text(value: object, what: str) -> str:
    """Return text; bytes, as h5py gives them, are decoded.

    Raises
    ------
    DataError
        If it is something else, or no UTF-8.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{what} is not UTF-8: {value!r}") from error
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, not {value!r}")
    return str(value)


def first_values(values: NDArray[Any]) -> str:
    """Return the first values as text, for messages."""
    return ", ".join(str(value) for value in values[:3]) + (", ..." if len(values) > 3 else "")


def _readable(value: object) -> object:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _type_of(array: NDArray[Any]) -> str:
    return "text" if array.dtype.kind in "SU" else f"{array.dtype}"


def _specimen(value: object, label: str) -> int:
    what = f"{label}: specimen"
    if isinstance(value, str):
        raise DataError(
            f"{what} must be a whole number, not {value!r}; NeuralDataset.from_arrays takes names of animals"
        )
    array = np.asarray(value) if not isinstance(value, str | bytes) else np.empty(0)
    if array.ndim or not (array.dtype.kind in "iuf" or type(value) is int) or value is np.ma.masked:
        raise DataError(f"{what} must be a whole number, not {value!r}")
    if array.dtype.kind == "f" and not (np.isfinite(array) and array == np.trunc(array)):
        raise DataError(f"{what} must be a whole number, not {value!r}")
    return int(whole_numbers(array.reshape(1), what)[0])


def _column(values: ArrayLike, what: str) -> NDArray[np.generic]:
    """Return a column as numbers, truth values or text; other types, which writing refuses, unchanged."""
    array = plain_array(values, what)
    if array.dtype.kind == "S":
        return np.array([as_text(item, what) for item in array.flat], dtype=str).reshape(array.shape)
    if array.dtype.kind != "O":
        return array
    is_missing = np.array([_is_missing(item) for item in array.flat], dtype=bool).reshape(array.shape)
    present = array[~is_missing]
    if all(isinstance(item, str | bytes) for item in present):
        texts = [
            "" if gone else as_text(item, what)
            for item, gone in zip(array.flat, is_missing.flat, strict=True)
        ]
        return np.array(texts, dtype=str).reshape(array.shape)
    numbers = np.array(present.tolist())
    if numbers.dtype.kind not in "iufb":
        raise DataError(f"{what} mixes numbers, text or other things; use numbers or text")
    if not is_missing.any():
        return numbers.reshape(array.shape)
    if numbers.dtype.kind in "iu" and beyond_float(numbers):
        raise DataError(f"{what}: whole numbers beyond 2**53 with missing ones among them; give it as text")
    filled = np.full(array.shape, np.nan)
    filled[~is_missing] = numbers
    return filled


def _is_missing(item: object) -> bool:
    """Whether an object stands for a missing entry: None, NaN, or pandas' NA and NaT."""
    return (
        item is None
        or type(item).__name__ in ("NAType", "NaTType")
        or (isinstance(item, float | np.floating) and bool(np.isnan(item)))
    )


def _as_floats(values: ArrayLike, what: str) -> NDArray[np.floating]:
    """Return float32 where every value survives it, else float64.

    Raises
    ------
    DataError
        If the values are no numbers, or float64 cannot hold them.
    """
    array = plain_array(values, what)
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "fiu":
        raise DataError(f"{what} must be numbers, not {_type_of(array)}")
    wide = array.astype(np.float64)
    is_exact = not beyond_float(array) if array.dtype.kind in "iu" else True
    if array.dtype.itemsize > 8:
        is_exact = np.array_equal(wide.astype(array.dtype), array, equal_nan=True)
    if not is_exact:
        raise DataError(f"{what} of type {array.dtype} are beyond what float64 holds exactly")
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow, wide, equal_nan=True) else wide
