"""A folder of session files as AllenSDK's project cache lays it out, or simply full of NWB files.

::

    DIR/session_ID/session_ID.nwb  or  DIR/session_ID.nwb  or  DIR/ANY.nwb
    DIR/session_ID/session_ID_analysis_metrics.csv, DIR/units.csv      image selectivity, running; optional
    DIR/sessions.csv                                                   animals and kinds; optional
    DIR/natural_scene_templates/natural_scene_FRAME.tiff               the images
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError
from mvkit.files import list_files

#: Kind of session in which the images of Brain Observatory 1.1 were shown.
SESSION_TYPE = "brain_observatory_1.1"
TEMPLATES = "natural_scene_templates"
_SESSIONS = "sessions.csv"

_SESSION_NAME = re.compile(r"(?:ecephys_)?session_(\d+)")
# LFP files of AllenSDK's cache lie beside the sessions.
_LFP_NAME = re.compile(r"probe_\d+_lfp")
_UNIT_KEYS = ("ecephys_unit_id", "unit_id", "id")
_METRIC_KEYS = {
    "image_selectivity_ns": ("image_selectivity_ns",),
    "run_pval_ns": ("p_value_running_ns", "run_pval_ns"),
}


def nwb_files(folder: Path, *, called: str) -> tuple[Path, ...]:
    """Return the NWB files in a folder and in the folders of it, by name, but those of field potentials.

    Files of which only a name is there (a link to nothing) are among them: to read one is an error.

    Raises
    ------
    UsageError
        If the folder is missing, or holds none of what they are ``called``.
    """
    if not folder.is_dir():
        raise UsageError(f"--sessions-from {folder}: no such folder")
    found = [file.path for file in list_files(folder, {".nwb"}, levels=1)]
    files = tuple(file for file in found if _LFP_NAME.fullmatch(file.stem) is None)
    if not files:
        raise UsageError(f"--sessions-from {folder}: no {called} (.nwb) in it or in the folders of it")
    return files


@dataclass(frozen=True)
class SessionFolder:
    """The files of a folder, found but not opened.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    def session_files(self) -> tuple[Path, ...]:
        """Return the session files, by name.

        Raises
        ------
        UsageError
            If the folder is missing or holds none.
        """
        return nwb_files(self.path, called="session files")

    def rows(self) -> Mapping[int, Mapping[str, str]]:
        """Return the rows of ``sessions.csv`` by session, none if there is no such table.

        Raises
        ------
        DataError
            If the table has no session ids.
        """
        path = self.path / _SESSIONS
        return {_whole(row, ("id", "ecephys_session_id"), path): row for row in _table(path)}

    def specimen(self, session_id: int, subject: str) -> int:
        """Return the animal: NWB files tell the donor only, the table of sessions the specimen.

        Parameters
        ----------
        session_id
            The session.
        subject
            What its file calls the animal; used where there is no table.
        """
        told = self.rows().get(session_id, {}).get("specimen_id", "")
        # Tables that pandas wrote again may hold whole numbers as floats.
        for text in (told.removesuffix(".0"), subject):
            if text.isdigit():
                return int(text)
        return session_id

    def metric_columns(
        self, session_file: Path, session_id: int, unit_ids: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return image selectivity and running p-value of units, each float64 (n_units,), NaN = not known."""
        metrics = self.metrics(session_file, session_id)
        unknown = dict.fromkeys(_METRIC_KEYS, math.nan)
        rows = [metrics.get(int(unit), unknown) for unit in unit_ids]
        return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in unknown}

    def metrics(self, session_file: Path, session_id: int) -> Mapping[int, Mapping[str, float]]:
        """Return image selectivity and running p-value by unit, from the first table that has them.

        Raises
        ------
        DataError
            If a table is not what it should be.
        """
        for path in self._metric_tables(session_file, session_id):
            rows = list(_table(path))
            if rows and any(key in rows[0] for keys in _METRIC_KEYS.values() for key in keys):
                return {
                    _whole(row, _UNIT_KEYS, path): {
                        metric: _number(row, keys, path) for metric, keys in _METRIC_KEYS.items()
                    }
                    for row in rows
                }
        return {}

    def tables(self, session_file: Path, session_id: int) -> tuple[Path, ...]:
        """Return the tables that add to a session, there or not."""
        return (self.path / _SESSIONS, *self._metric_tables(session_file, session_id))

    def _metric_tables(self, session_file: Path, session_id: int) -> tuple[Path, ...]:
        name = f"session_{session_id}_analysis_metrics.csv"
        return session_file.with_name(name), self.path / name, self.path / "units.csv"

    @property
    def has_templates(self) -> bool:
        """Whether there is a folder of images."""
        return (self.path / TEMPLATES).is_dir()

    def templates(self, frame_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images, uint8 (n_frames, height, width).

        Raises
        ------
        DataError
            If one is missing, unreadable, or of another size.
        """
        images = [self._template(int(frame)) for frame in frame_ids]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise DataError(f"{self.path / TEMPLATES}: images differ in size: {sorted(sizes)}")
        return np.stack(images)

    def _template(self, frame: int) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        path = self.path / TEMPLATES / f"natural_scene_{frame}.tiff"
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image)
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no image for frame {frame}; session files do not hold the images\n"
                "copy the folder of AllenSDK's cache there (EcephysProjectCache.get_natural_scene_template)"
            ) from error
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
        # Grey levels of 8 bits may be kept in a wider type; what does not survive the cast is refused.
        with np.errstate(invalid="ignore"):
            grey = pixels.astype(np.uint8)
        if pixels.ndim != 2 or not np.array_equal(grey, pixels):
            raise DataError(f"{path}: {pixels.dtype} {pixels.shape}, expected a grey image of 8 bits")
        return grey


def number_in_name(path: Path) -> int | None:
    """Return the session's number if the file is named by it."""
    found = _SESSION_NAME.fullmatch(path.stem)
    return int(found.group(1)) if found else None


def _table(path: Path) -> Iterator[Mapping[str, str]]:
    """Yield the rows of a table; none if there is no such file."""
    if not path.is_file():
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error


def _whole(row: Mapping[str, str], keys: tuple[str, ...], path: Path) -> int:
    text = next((row[key] for key in keys if key in row), None)
    try:
        return int(float(text)) if text and not text.isdigit() else int(text or "")
    except ValueError as error:
        raise DataError(f"{path}: {' or '.join(keys)} is {text!r} in a row, expected a number") from error


def _number(row: Mapping[str, str], keys: tuple[str, ...], path: Path) -> float:
    text = next((row[key] for key in keys if row.get(key)), "")
    try:
        return float(text) if text else float("nan")
    except ValueError as error:
        raise DataError(f"{path}: {keys[0]} is {text!r} in a row, expected a number") from error
