"""Scores on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mvkit.atomic import replacing, write_text
from mvkit.errors import DataError
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    import pandas as pd

UNITS_CSV = "scores.csv"
UNITS_PARQUET = "scores.parquet"
FOLDS_PARQUET = "folds.parquet"
SUMMARY_CSV = "summary.csv"
BEST_CSV = "best_layers.csv"
HELD_OUT_CSV = "held_out_layers.csv"
SUMMARY_JSON = "summary.json"


def save_scores(scores: Scores, out_dir: Path, also: Mapping[str, object] | None = None) -> list[Path]:
    """Write scores to a directory, each file whole or not at all.

    ``scores.csv`` and ``scores.parquet`` hold one row per unit, ``folds.parquet`` the same rows' scores from
    even and from odd image splits, ``summary.csv`` layers x areas, ``best_layers.csv`` and
    ``held_out_layers.csv`` the layer per area by either choice, ``summary.json`` settings, protocol and its
    digest, seeds, versions and all three tables. ``summary.json`` is written last, so that its presence means
    the others are complete.

    Parameters
    ----------
    scores
        The scores.
    out_dir
        Folder, made if it does not exist.
    also
        Further entries of ``summary.json``, as plain JSON values.

    Returns
    -------
    list of Path
        The files written.
    """
    table = scores.table()
    frames: dict[str, pd.DataFrame] = {
        UNITS_CSV: table,
        SUMMARY_CSV: scores.summary(),
        BEST_CSV: scores.best_layers(),
        HELD_OUT_CSV: scores.held_out_layers(),
    }
    for name, frame in frames.items():
        with replacing(out_dir / name) as temporary:
            frame.to_csv(temporary, index=False)
    for name, frame in {UNITS_PARQUET: table, FOLDS_PARQUET: _by_fold(scores)}.items():
        # Opened here: pyarrow cannot open a folder whose name is no UTF-8.
        with replacing(out_dir / name) as temporary, temporary.open("wb") as file:
            frame.to_parquet(file, index=False)
    summary = {**scores.to_json(), **(also or {})}
    write_text(out_dir / SUMMARY_JSON, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return [out_dir / name for name in (*frames, UNITS_PARQUET, FOLDS_PARQUET, SUMMARY_JSON)]


def _by_fold(scores: Scores) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({f"fold_{fold}": values for fold, values in enumerate(scores.by_fold)})


def read_scores(out_dir: Path) -> Scores:
    """Read back what :func:`save_scores` wrote.

    Scores of versions before there was a ``folds.parquet`` are read without scores by fold; settings that
    did not exist then have their defaults, which mean what was done then.

    Raises
    ------
    DataError
        If ``summary.json``, ``scores.parquet`` or ``folds.parquet`` is missing, damaged, or they do not fit
        together.
    """
    import pandas as pd

    _require(out_dir, SUMMARY_JSON, UNITS_PARQUET)
    try:
        summary = json.loads((out_dir / SUMMARY_JSON).read_text(encoding="utf-8"))
        settings = ScoreSettings(**summary["settings"])
        layers, areas = tuple(summary["layers"]), tuple(summary["areas"])
        context, is_old = summary["context"], "protocol" not in summary
        table = _read_parquet(out_dir / UNITS_PARQUET)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{out_dir}: damaged scores ({error})") from error
    return Scores(
        columns={
            str(name): table[name].to_numpy()
            if pd.api.types.is_numeric_dtype(table[name])
            else np.array(table[name].tolist(), dtype=object)
            for name in table.columns
        },
        by_fold=np.empty((0, 0)) if is_old else _read_by_fold(out_dir, len(table)),
        layers=layers,
        areas=areas,
        settings=settings,
        context=context,
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        return pd.read_parquet(file)


def _read_by_fold(out_dir: Path, n_rows: int) -> NDArray[np.float64]:
    _require(out_dir, FOLDS_PARQUET)
    try:
        table = _read_parquet(out_dir / FOLDS_PARQUET)
    except (ValueError, OSError) as error:
        raise DataError(f"{out_dir}: damaged scores ({FOLDS_PARQUET}: {error})") from error
    if table.shape[1] and len(table) != n_rows:
        raise DataError(
            f"{out_dir}: damaged scores ({UNITS_PARQUET} has {n_rows} rows, {FOLDS_PARQUET} {len(table)})"
        )
    return np.ascontiguousarray(table.to_numpy(dtype=np.float64).T)


def _require(out_dir: Path, *names: str) -> None:
    for name in names:
        if not (out_dir / name).is_file():
            raise DataError(f"{out_dir}: no {name} here; is this a folder written by 'mvkit score --out'?")
