"""A scoring run on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.atomic import replacing, write_text
from mvkit.jsonable import plain
from mvkit.report.document import table2_document
from mvkit.report.outcome import ScoreRun
from mvkit.scoring.results import save_scores

if TYPE_CHECKING:
    import pandas as pd

CEILING = "ceiling"
FRACTIONS_CSV = "fractions.csv"
COMPARISON_CSV = "comparison.csv"
COMPARISON_JSON = "comparison.json"
EXTRAPOLATION_CSV = "extrapolation.csv"
EXTRAPOLATION_JSON = "extrapolation.json"


def save_run(run: ScoreRun, out: Path) -> list[Path]:
    """Write a run to a folder, each file whole or not at all.

    One model's files lie in the folder itself, those of several models in a folder each, see
    :func:`mvkit.scoring.save_scores`; the ceiling's in ``ceiling``. Fractions of the ceiling go beside the
    scores (``fractions.csv``), comparisons to ``comparison.csv`` and ``comparison.json``.

    Returns
    -------
    list of Path
        The files written.
    """
    several = len(run.models) > 1
    folders = folder_names(run.models, taken=[CEILING])
    files: list[Path] = []
    for name, scores in run.models.items():
        folder = out / folders[name] if several else out
        if name in run.fractions:
            files.append(_write_csv(folder / FRACTIONS_CSV, run.fractions[name]))
        files += save_scores(scores, folder, also={"table2": table2_document(run, name)})
    if run.ceiling is not None:
        files += save_scores(run.ceiling, out / CEILING)
    if run.extrapolation is not None:
        files.append(_write_csv(out / CEILING / EXTRAPOLATION_CSV, run.extrapolation.table()))
        files.append(_write_json(out / CEILING / EXTRAPOLATION_JSON, run.extrapolation.to_json()))
    if run.comparison is not None:
        files.append(_write_csv(out / COMPARISON_CSV, run.comparison.table()))
        files.append(_write_json(out / COMPARISON_JSON, run.comparison.to_json()))
    return files


def written_lines(files: Iterable[Path]) -> list[str]:
    """Name files that were written, a line per folder."""
    folders: dict[Path, list[str]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file.name)
    return [f"wrote {folder}: {', '.join(names)}" for folder, names in folders.items()]


def _write_csv(path: Path, frame: pd.DataFrame) -> Path:
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path


def _write_json(path: Path, document: object) -> Path:
    write_text(path, json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
    return path


def folder_names(names: Iterable[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """Give every model a folder name that is safe on every file system and its own.

    Parameters
    ----------
    names
        Models as the user names them, possibly paths.
    taken
        Folder names that something else has.

    Returns
    -------
    dict
        Model -> folder name: letters, digits, ``-``, ``_`` and ``.``, everything else an underscore;
        a number is added where two would be the same but for upper and lower case.
    """
    used = {name.lower() for name in taken}
    folders = {}
    for name in names:
        base = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._") or "model"
        folder, count = base, 1
        while folder.lower() in used:
            count += 1
            folder = f"{base}-{count}"
        used.add(folder.lower())
        folders[name] = folder
    return folders
