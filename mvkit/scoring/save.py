"""Scores on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvkit.atomic import replacing, write_text
from mvkit.errors import DataError
from mvkit.scoring.results import Scores
from mvkit.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    import pandas as pd

UNITS_CSV = "scores.csv"
UNITS_PARQUET = "scores.parquet"
SPLITS_PARQUET = "splits.parquet"
SUMMARY_CSV = "summary.csv"
BEST_CSV = "best_layers.csv"
HELD_OUT_CSV = "held_out_layers.csv"
SUMMARY_JSON = "summary.json"


def save_scores(scores: Scores, out_dir: Path) -> list[Path]:
    """Write scores to a directory, each file whole or not at all.

    ``scores.csv`` and ``scores.parquet`` hold one row per unit, ``splits.parquet`` the same rows' scores by
    image split, ``summary.csv`` layers x areas, ``best_layers.csv`` and ``held_out_layers.csv`` the layer per
    area by either choice, ``summary.json`` settings, protocol and its digest, seeds, versions and all three
    tables. ``summary.json`` is written last, so that its presence means the others are complete.

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
    for name, frame in {UNITS_PARQUET: table, SPLITS_PARQUET: _by_split(scores)}.items():
        with replacing(out_dir / name) as temporary:
            frame.to_parquet(temporary, index=False)
    write_text(out_dir / SUMMARY_JSON, json.dumps(scores.to_json(), indent=2, allow_nan=False) + "\n")
    return [out_dir / name for name in (*frames, UNITS_PARQUET, SPLITS_PARQUET, SUMMARY_JSON)]


def _by_split(scores: Scores) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({f"split_{split}": values for split, values in enumerate(scores.by_split)})


def read_scores(out_dir: Path) -> Scores:
    """Read back what :func:`save_scores` wrote.

    Raises
    ------
    DataError
        If ``summary.json``, ``scores.parquet`` or ``splits.parquet`` is missing or damaged.
    """
    import pandas as pd

    for name in (SUMMARY_JSON, UNITS_PARQUET, SPLITS_PARQUET):
        if not (out_dir / name).is_file():
            raise DataError(f"{out_dir}: no {name} here; is this a folder written by 'mvkit score --out'?")
    try:
        summary = json.loads((out_dir / SUMMARY_JSON).read_text(encoding="utf-8"))
        settings = ScoreSettings(**summary["settings"])
        table = pd.read_parquet(out_dir / UNITS_PARQUET)
        by_split = pd.read_parquet(out_dir / SPLITS_PARQUET).to_numpy(dtype=np.float64).T
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{out_dir}: damaged scores ({error})") from error
    numeric = {name for name in table.columns if pd.api.types.is_numeric_dtype(table[name])}
    return Scores(
        columns={
            str(name): table[name].to_numpy()
            if name in numeric
            else np.array(table[name].tolist(), dtype=object)
            for name in table.columns
        },
        by_split=np.ascontiguousarray(by_split),
        layers=tuple(summary["layers"]),
        areas=tuple(summary["areas"]),
        settings=settings,
        context=summary["context"],
    )
