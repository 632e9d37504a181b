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

#: Characters of a value, and differences, that an error shows.
_LONGEST, _MOST_FIELDS = 30, 3


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
    found: list[tuple[Path, str, Scores]] = []
    ceiling: Scores | None = None
    for folder in dict.fromkeys(folders):
        found += [(folder, name, scores) for name, scores in _read_folder(folder).items()]
        if ceiling is None and (folder / CEILING / SUMMARY_JSON).is_file():
            ceiling = read_scores(folder / CEILING)
    first_path, _, first = found[0]
    for path, name, scores in found[1:]:
        differences = protocol_differences(first, scores)
        if scores.areas != first.areas:
            differences["areas"] = ",".join(first.areas), ",".join(scores.areas)
        if differences:
            # Recordings that the selection dropped follow from its settings.
            listed = [field for field in differences if not field.startswith("selection.dropped")]
            fields = "; ".join(
                f"{field}: {shorten(differences[field][0], _LONGEST)} and "
                f"{shorten(differences[field][1], _LONGEST)}"
                for field in listed[:_MOST_FIELDS]
            )
            if len(listed) > _MOST_FIELDS:
                fields += f"; and {len(listed) - _MOST_FIELDS} more"
            raise UsageError(
                f"{first_path} and {name} in {path}: scored by different protocols, which must not be "
                f"compared\n{fields}"
            )
    return SavedRuns(_label(found), ceiling)


def _read_folder(folder: Path) -> dict[str, Scores]:
    """Return the models of one folder by their names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one that 'mvkit score --out' wrote")
    paths = [folder]
    if not (folder / SUMMARY_JSON).is_file():
        paths = sorted(
            path.parent for path in folder.glob(f"*/{SUMMARY_JSON}") if path.parent.name != CEILING
        )
    scores = [read_scores(path) for path in paths or [folder]]
    return {str(one.context.get("model", path.name)): one for path, one in zip(paths, scores, strict=True)}


def _label(found: Sequence[tuple[Path, str, Scores]]) -> dict[str, Scores]:
    """Label scores with the model's name, and with the folder's where models have the same."""
    names = [name for _, name, _ in found]
    return {
        name if names.count(name) == 1 else f"{name} in {folder}": scores for folder, name, scores in found
    }
