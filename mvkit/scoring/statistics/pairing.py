"""The same units in several results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.scoring.layer_choice import ChosenUnits


@dataclass(frozen=True)
class PairedUnits:
    """Values of the same units from several results.

    Attributes
    ----------
    columns
        float64 (n_results, n_units), without NaN.
    specimen
        int64 (n_units,).
    area
        int64 (n_units,): position in the areas asked for.
    n_left_out
        Units that are in some result but without a score in at least one of them.
    """

    columns: NDArray[np.float64]
    specimen: NDArray[np.int64]
    area: NDArray[np.int64]
    n_left_out: int


def paired_units(results: Sequence[Mapping[str, ChosenUnits]], areas: Sequence[str]) -> PairedUnits:
    """Match units by (area, specimen, unit_id) and keep those that every result has a score for.

    Raises
    ------
    DataError
        If a result holds a unit twice.
    """
    tables = [_scores_by_unit(result, areas) for result in results]
    everything = dict.fromkeys(unit for table in tables for unit in table)
    units = [unit for unit in everything if all(not np.isnan(table.get(unit, np.nan)) for table in tables)]
    columns = np.array([[table[unit] for unit in units] for table in tables], dtype=np.float64)
    specimen = np.array([specimen for _, specimen, _ in units], dtype=np.int64)
    area = np.array([areas.index(name) for name, _, _ in units], dtype=np.int64)
    return PairedUnits(columns.reshape(len(tables), -1), specimen, area, len(everything) - len(units))


def _scores_by_unit(
    result: Mapping[str, ChosenUnits], areas: Sequence[str]
) -> dict[tuple[str, int, int], float]:
    table: dict[tuple[str, int, int], float] = {}
    for area in areas:
        if area not in result:
            continue
        units = result[area]
        for specimen, unit, score in zip(
            units.specimen.tolist(), units.unit_id.tolist(), units.score.tolist(), strict=True
        ):
            key = (area, specimen, unit)
            if key in table:
                raise DataError(
                    f"area {area}, specimen {specimen}: unit {unit} is there twice; "
                    "units cannot be matched between results"
                )
            table[key] = score
    return table
