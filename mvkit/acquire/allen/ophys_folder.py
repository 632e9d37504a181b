"""A folder of imaging experiments as AllenSDK's BrainObservatoryCache lays it out, or full of NWB files.

::

    DIR/ophys_experiment_data/ID.nwb  or  DIR/ID.nwb  or  DIR/ANY.nwb
    DIR/cell_specimens.json                        metrics of the cells; optional
    DIR/ophys_experiments.json                     which animal, which failed; optional
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.folder import nwb_files
from mvkit.errors import DataError

CELLS_TABLE, EXPERIMENTS_TABLE = "cell_specimens.json", "ophys_experiments.json"
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

_EXPERIMENT_NAME = re.compile(r"(?:ophys_)?(?:experiment_)?(\d+)")
_LAST_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class OphysFolder:
    """The files of a folder, found but not opened; tables are read once.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    def experiment_files(self) -> tuple[Path, ...]:
        """Return the experiments' files, by name.

        Raises
        ------
        UsageError
            If the folder is missing or holds none.
        """
        return nwb_files(self.path, called="experiments")

    @property
    def tables(self) -> tuple[Path, ...]:
        """The tables that add to an experiment, there or not."""
        return self.path / CELLS_TABLE, self.path / EXPERIMENTS_TABLE

    def is_failed(self, experiment_id: int) -> bool:
        """Tell whether the Allen Institute dropped the experiment or its container."""
        row = self._experiments.get(experiment_id, {})
        container = row.get("experiment_container") or {}
        return bool(row.get("failed") or container.get("failed"))

    def specimen(self, experiment_id: int, cell_ids: NDArray[np.int64], name: str) -> int:
        """Return the animal, by which experiments of one animal are joined.

        Parameters
        ----------
        experiment_id
            The experiment.
        cell_ids
            Its cells, asked for where there is no table of experiments.
        name
            What its file calls the animal: it ends with a number of the animal's, which is used where there
            is no table at all.
        """
        rows = (self._cells.get(int(cell)) for cell in cell_ids)
        animals = (row[0] for row in rows if row is not None)
        for told in (self._experiments.get(experiment_id, {}).get("specimen_id"), next(animals, None)):
            if isinstance(told, int):
                return told
        found = _LAST_NUMBER.search(name)
        return int(found.group(1)) if found else experiment_id

    def metric_columns(self, cell_ids: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return metrics of cells, each float64 (n_cells,), NaN = not known."""
        unknown = (math.nan,) * len(CELL_METRICS)
        rows = [self._cells.get(int(cell), (None, unknown))[1] for cell in cell_ids]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(CELL_METRICS))
        return {name: table[:, place].copy() for place, name in enumerate(CELL_METRICS)}

    @cached_property
    def _experiments(self) -> Mapping[int, Mapping[str, Any]]:
        path = self.path / EXPERIMENTS_TABLE
        rows = _read(path, None)
        try:
            return {int(row["id"]): row for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a table of experiments ({error})") from error

    @cached_property
    def _cells(self) -> Mapping[int, tuple[Any, tuple[float, ...]]]:
        """Animal and metrics by cell."""
        path = self.path / CELLS_TABLE
        # A row has some 70 values, and there are 63,000 rows: keep what is needed while they are read.
        rows = _read(path, lambda row: _cell_of(row) if CELL_ID in row else row)
        try:
            return dict(rows)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: not a table of cells ({error})") from error


def number_in_name(path: Path) -> int | None:
    """Return the experiment's number if the file is named by it."""
    found = _EXPERIMENT_NAME.fullmatch(path.stem)
    return int(found.group(1)) if found else None


def _cell_of(row: Mapping[str, Any]) -> tuple[int, tuple[Any, tuple[float, ...]]]:
    values = tuple(math.nan if row.get(name) is None else float(row[name]) for name in CELL_METRICS)
    return int(row[CELL_ID]), (row.get("specimen_id"), values)


def _read(path: Path, hook: Any) -> list[Any]:
    """Return the rows of a JSON table; none if there is no such file."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as file:
            rows = json.load(file, object_hook=hook)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows")
    return rows
