"""A folder of session files as AllenSDK's caches lay it out, as DANDI does, or simply full of NWB files.

::

    Neuropixels
    DIR/session_ID/session_ID.nwb  or  DIR/sub-ANIMAL/sub-ANIMAL_ses-ID.nwb (DANDI)
    or DIR[/ANY[/ANY]]/ANY.nwb
    DIR/session_ID/session_ID_analysis_metrics.csv, DIR/units.csv    image selectivity, running; optional
    DIR/sessions.csv                                                 animals and kinds of sessions; optional
    DIR/channels.csv                                                 areas, where corrected since; optional
    DIR/natural_scene_templates/natural_scene_FRAME.tiff             the images
    DIR/natural_movie_templates/natural_movie_NUMBER.h5              the movies, which are NumPy's .npy

    Calcium
    DIR/ophys_experiment_data/ID.nwb  or  DIR[/ANY[/ANY]]/ANY.nwb
    DIR/cell_specimens.json                                          metrics of the cells; optional
    DIR/ophys_experiments.json                                       which animal, which failed; optional
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.allen.request import MOVIES
from mvkit.allen.session import SessionSource
from mvkit.errors import DataError, UsageError
from mvkit.files import list_files, opening_image
from mvkit.machine import installed_versions
from mvkit.neural.own.tables import TextFormat, exact_whole_number

LOGGER = logging.getLogger(__name__)

TEMPLATES = "natural_scene_templates"
MOVIE_TEMPLATES = "natural_movie_templates"
#: Metrics of cells for natural scenes, as in the published recordings.
CELL_METRICS = (
    "image_sel_ns",
    "p_ns",
    "p_run_mod_ns",
    "peak_dff_ns",
    "pref_image_ns",
    "reliability_ns",
    "run_mod_ns",
    "time_to_peak_ns",
)
CELL_ID = "cell_specimen_id"

# Files of field potentials lie beside the sessions, in AllenSDK's cache and on DANDI.
_LFP_NAME = re.compile(r"probe_\d+_lfp|sub-.*_probe-\d+_.*")
_SESSIONS, _CHANNELS, _UNITS = "sessions.csv", "channels.csv", "units.csv"
_CELLS, _EXPERIMENTS = "cell_specimens.json", "ophys_experiments.json"
_SESSION_KEYS = ("id", "ecephys_session_id")
_CHANNEL_KEYS = ("id", "ecephys_channel_id")
_UNIT_KEYS = ("ecephys_unit_id", "unit_id", "id")
_UNIT_METRICS = {
    "image_selectivity_ns": ("image_selectivity_ns",),
    "run_pval_ns": ("p_value_running_ns", "run_pval_ns"),
}
_STRUCTURE = "ecephys_structure_acronym"
#: Key of the fields of a row that are more than the header has names.
_BEYOND = "\n"
_LAST_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class SessionFolder:
    """The files of a folder, and the tables beside them, which are read when first needed.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    @property
    def provenance(self) -> Mapping[str, object]:
        """The folder's name and the versions that read it."""
        return {"folder": self.path.absolute().name, "versions": installed_versions("h5py", "numpy")}

    def sources(
        self,
        session_number: Callable[[Path], int | None],
        tables: Callable[[Path, int], Iterable[Path]],
        *,
        requested: str,
    ) -> tuple[SessionSource, ...]:
        """Return the sessions of the folder, ascending by number.

        Parameters
        ----------
        session_number
            Returns the number of a file's session; None leaves it out.
        tables
            Returns the tables that add to a session, there or not.
        requested
            Description of the sessions, as in "no REQUESTED".

        Raises
        ------
        UsageError
            If the folder is missing or holds none.
        DataError
            If two files are of one session.
        """
        if not self.path.is_dir():
            raise UsageError(f"--sessions-from {self.path}: no such folder")
        # A link to nothing is among them: to read it is an error.
        files = [file.path for file in list_files(self.path, {".nwb"}, levels=2)]
        paths = [path for path in files if _LFP_NAME.fullmatch(path.stem) is None]
        if not paths:
            lfp = f"; the {len(files)} there are field potentials of single probes" if files else ""
            raise UsageError(
                f"--sessions-from {self.path}: no session files (.nwb) in it or in the folders of it{lfp}"
            )
        by_number: dict[int, Path] = {}
        for path in paths:
            number = session_number(path)
            if number is None:
                LOGGER.info("%s: no %s, left out", path, requested)
                continue
            if number in by_number:
                raise DataError(
                    f"session {number} is there twice: {by_number[number]} and {path}\n"
                    "move one of the two out of the folder"
                )
            by_number[number] = path
        if not by_number:
            raise UsageError(f"--sessions-from {self.path}: no {requested}")
        return tuple(
            SessionSource.from_file(number, path, tables(path, number))
            for number, path in sorted(by_number.items())
        )

    # Neuropixels

    def session_tables(self, session_file: Path, session_id: int) -> tuple[Path, ...]:
        """Return the tables that add to a Neuropixels session, there or not."""
        tables = self._metric_tables(session_file, session_id)
        return self.path / _SESSIONS, self.path / _CHANNELS, *tables

    @cached_property
    def sessions(self) -> Mapping[int, Mapping[str, str]]:
        """Rows of ``sessions.csv`` by session, none without that table; DataError if it has no ids."""
        path = self.path / _SESSIONS
        return {_whole_number(row, _SESSION_KEYS, path): row for row in _csv_rows(path)}

    def session_specimen(self, session_id: int, subject: str) -> int:
        """Return the animal: session files name the donor only, the table of sessions the specimen.

        Parameters
        ----------
        session_id
            The session.
        subject
            The animal's name in its file; used where there is no table.
        """
        specimen = self.sessions.get(session_id, {}).get("specimen_id", "")
        # Tables that pandas wrote again may hold whole numbers as floats.
        for text in (specimen.removesuffix(".0"), subject):
            if text.isdigit():
                return int(text)
        return session_id

    @cached_property
    def channel_areas(self) -> Mapping[int, str]:
        """Area by channel as ``channels.csv`` has it, "" outside the brain; none without that table.

        The Allen Institute corrects areas there without publishing the session files again.
        """
        path = self.path / _CHANNELS
        rows = _csv_rows(path)
        if not rows or _STRUCTURE not in rows[0]:
            return {}
        return {_whole_number(row, _CHANNEL_KEYS, path): row[_STRUCTURE] or "" for row in rows}

    def unit_metrics(
        self, session_file: Path, session_id: int, unit_ids: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return image selectivity and running p-value of units, each float64 (n_units,), NaN = not known.

        They are from the first table that has them; DataError if one is not what it should be.
        """
        metrics: dict[int, dict[str, float]] = {}
        for path in self._metric_tables(session_file, session_id):
            rows = _csv_rows(path)
            if rows and any(key in rows[0] for keys in _UNIT_METRICS.values() for key in keys):
                metrics = {
                    _whole_number(row, _UNIT_KEYS, path): {
                        name: _number(row, keys, path) for name, keys in _UNIT_METRICS.items()
                    }
                    for row in rows
                }
                break
        unknown = dict.fromkeys(_UNIT_METRICS, math.nan)
        by_unit = [metrics.get(int(unit), unknown) for unit in unit_ids]
        return {name: np.array([row[name] for row in by_unit], dtype=np.float64) for name in unknown}

    def _metric_tables(self, session_file: Path, session_id: int) -> tuple[Path, ...]:
        name = f"session_{session_id}_analysis_metrics.csv"
        return session_file.with_name(name), self.path / name, self.path / _UNITS

    def has_templates(self, stimulus: str) -> bool:
        """Tell whether there is a folder of the images or movies that the stimulus is one of."""
        return (self.path / (MOVIE_TEMPLATES if stimulus in MOVIES else TEMPLATES)).is_dir()

    def templates(self, stimulus: str, frame_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images, uint8 (n_frames, height, width); DataError if one is missing or damaged."""
        if stimulus in MOVIES:
            return self._movie(MOVIES[stimulus], frame_ids)
        images = [self._template(int(frame)) for frame in frame_ids]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise DataError(f"{self.path / TEMPLATES}: images differ in size: {sorted(sizes)}")
        return np.stack(images)

    def _movie(self, number: int, frame_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        path = self.path / MOVIE_TEMPLATES / f"natural_movie_{number}.h5"
        try:
            # Named like HDF5, but written by numpy.save, also in AllenSDK's own cache.
            frames = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no frames of the movie; session files do not hold them\n"
                "copy the file of AllenSDK's cache there (EcephysProjectCache.get_natural_movie_template)"
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not a readable array of NumPy ({error})") from error
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 3:
            raise DataError(f"{path}: expected an array uint8 (frames, height, width)")
        if frame_ids[-1] >= len(frames):
            raise DataError(f"{path}: {len(frames)} frames, but frame {frame_ids[-1]} was shown")
        return np.asarray(frames[frame_ids])

    def _template(self, frame: int) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        path = self.path / TEMPLATES / f"natural_scene_{frame}.tiff"
        try:
            with opening_image(path) as image:
                pixels = np.asarray(image)
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no image for frame {frame}; session files do not hold the images\n"
                "copy the folder of AllenSDK's cache there (EcephysProjectCache.get_natural_scene_template)"
            ) from error
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
        # Grey levels of 8 bits may be stored in a wider type; what does not survive the cast is an error.
        with np.errstate(invalid="ignore"):
            grey = pixels.astype(np.uint8)
        if pixels.ndim != 2 or not np.array_equal(grey, pixels):
            raise DataError(f"{path}: {pixels.dtype} {pixels.shape}, expected a grey image of 8 bits")
        return grey

    # Calcium

    @property
    def experiment_tables(self) -> tuple[Path, ...]:
        """The tables that add to an imaging experiment, there or not."""
        return self.path / _CELLS, self.path / _EXPERIMENTS

    def is_failed(self, experiment_id: int) -> bool:
        """Tell whether the Allen Institute marked the experiment or its container as failed."""
        row = self._experiments.get(experiment_id, {})
        container = row.get("experiment_container") or {}
        return bool(row.get("failed") or container.get("failed"))

    def experiment_specimen(self, experiment_id: int, cell_ids: NDArray[np.int64], name: str) -> int:
        """Return the animal, which several experiments may share.

        Parameters
        ----------
        experiment_id
            The experiment.
        cell_ids
            Its cells, looked up where there is no table of experiments.
        name
            The animal's name in its file: it ends with a number, which is used where there is no table.
        """
        of_cells = [self._cells[int(cell)][0] for cell in cell_ids if int(cell) in self._cells]
        for specimen in (self._experiments.get(experiment_id, {}).get("specimen_id"), *of_cells[:1]):
            if isinstance(specimen, int):
                return specimen
        number = _LAST_NUMBER.search(name)
        return int(number.group(1)) if number else experiment_id

    def cell_metrics(self, cell_ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return metrics of cells, each float64 (n_cells,), NaN = not known."""
        unknown = (math.nan,) * len(CELL_METRICS)
        rows = [self._cells.get(int(cell), (None, unknown))[1] for cell in cell_ids]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(CELL_METRICS))
        return {name: table[:, column].copy() for column, name in enumerate(CELL_METRICS)}

    @cached_property
    def _experiments(self) -> Mapping[int, Mapping[str, Any]]:
        path = self.path / _EXPERIMENTS
        try:
            return {int(row["id"]): row for row in _json_rows(path, None)}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a table of experiments ({error})") from error

    @cached_property
    def _cells(self) -> Mapping[int, tuple[Any, tuple[float, ...]]]:
        """Animal and metrics by cell."""
        path = self.path / _CELLS
        # A row has some 70 values, and there are 63,000 rows: only what is needed is kept in memory.
        rows = _json_rows(path, lambda row: _cell_row(row) if CELL_ID in row else row)
        try:
            return dict(rows)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: not a table of cells ({error})") from error


class _Row(dict[str, str]):
    """A row of a table: values by column, and its line in the file."""

    def __init__(self, values: Mapping[str, str], line: int) -> None:
        super().__init__(values)
        self.line = line


def _csv_rows(path: Path) -> list[_Row]:
    """Return the rows of a table, also as spreadsheet programs save it; none if there is no such file."""
    if not path.is_file():
        return []
    rows = []
    try:
        form = TextFormat.of(path)
        with path.open(newline="", encoding=form.encoding) as file:
            for _ in range(form.n_skipped):
                next(file)
            reader = csv.DictReader(file, delimiter=form.separator, restval="", restkey=_BEYOND)
            for values in reader:
                line = reader.line_num + form.n_skipped
                # Fields beyond the header: of commas at the end, or of numbers with commas in them.
                if any(values.pop(_BEYOND, [])):
                    raise DataError(f"{path}: line {line}: more fields than the header has names")
                if any(values.values()):
                    rows.append(_Row(values, line))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    return rows


def _json_rows(path: Path, hook: Any) -> list[Any]:
    """Return the rows of a JSON table; none if there is no such file."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            rows = json.load(file, object_hook=hook)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows")
    return rows


def _cell_row(row: Mapping[str, Any]) -> tuple[int, tuple[Any, tuple[float, ...]]]:
    values = tuple(math.nan if row.get(name) is None else float(row[name]) for name in CELL_METRICS)
    return int(row[CELL_ID]), (row.get("specimen_id"), values)


def _whole_number(row: _Row, keys: tuple[str, ...], path: Path) -> int:
    name = next((key for key in keys if key in row), "")
    try:
        return exact_whole_number(row.get(name, ""))
    except ValueError as error:
        raise DataError(f"{path}: line {row.line}: {name or ' or '.join(keys)}: {error}") from error


def _number(row: _Row, keys: tuple[str, ...], path: Path) -> float:
    name = next((key for key in keys if row.get(key)), "")
    text = row.get(name, "")
    try:
        if "_" in text:
            raise ValueError(text)
        return float(text) if text else float("nan")
    except ValueError as error:
        raise DataError(f"{path}: line {row.line}: {name} is '{text}', expected a number") from error
