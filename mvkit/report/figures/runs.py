"""Saved scores as figures take them: models by label, and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import DataError, UsageError
from mvkit.files import shorten
from mvkit.report.files import CEILING
from mvkit.scoring.results import SUMMARY_JSON, read_scores

if TYPE_CHECKING:
    from mvkit.scoring import Scores

#: Characters of a value that an error shows.
_LONGEST = 40


@dataclass(frozen=True)
class SavedRuns:
    """What folders of ``mvkit score --out`` hold.

    Attributes
    ----------
    models
        Label -> scores, in the order of the folders.
    ceiling
        Consistency between animals, where one of the runs measured it.
    """

    models: Mapping[str, Scores]
    ceiling: Scores | None = None


def read_runs(folders: Sequence[Path]) -> SavedRuns:
    """Read saved scores of one or several models and runs, all of one protocol.

    Parameters
    ----------
    folders
        Folders that ``mvkit score --out`` wrote, of one model or several; or a model's folder in one.

    Raises
    ------
    DataError
        If one holds no scores, or damaged ones.
    UsageError
        If none is given, or two were scored by different protocols.
    """
    from mvkit.scoring.comparison import protocol_differences

    if not folders:
        raise UsageError("give a folder that 'mvkit score --out' wrote")
    found: list[tuple[Path, Scores]] = []
    ceiling: Scores | None = None
    for folder in dict.fromkeys(folders):
        found += [(path, read_scores(path)) for path in _model_folders(folder)]
        if ceiling is None and (folder / CEILING / SUMMARY_JSON).is_file():
            ceiling = read_scores(folder / CEILING)
    first_path, first = found[0]
    for path, scores in found[1:]:
        differences = protocol_differences(first, scores)
        if scores.areas != first.areas:
            differences["areas"] = ",".join(first.areas), ",".join(scores.areas)
        if differences:
            fields = "; ".join(
                f"{name}: {shorten(there, _LONGEST)} and {shorten(here, _LONGEST)}"
                for name, (there, here) in differences.items()
            )
            raise UsageError(f"{first_path} and {path}: scored by different protocols, not to be compared\n{fields}")
    return SavedRuns(_label(found), ceiling)


def _model_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one that 'mvkit score --out' wrote")
    if (folder / SUMMARY_JSON).is_file():
        return [folder]
    inside = sorted(path.parent for path in folder.glob(f"*/{SUMMARY_JSON}") if path.parent.name != CEILING)
    if not inside:
        raise DataError(f"{folder}: no {SUMMARY_JSON} here; is this a folder written by 'mvkit score --out'?")
    return inside


def _label(found: Sequence[tuple[Path, Scores]]) -> dict[str, Scores]:
    """Label scores with the model's name, and with the folder's where models have the same."""
    names = [str(scores.context.get("model", path.name)) for path, scores in found]
    return {
        name if names.count(name) == 1 else f"{name} in {path}": scores
        for name, (path, scores) in zip(names, found, strict=True)
    }
