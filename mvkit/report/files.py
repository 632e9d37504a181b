"""What a scoring run writes: tables as files, and one JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.files import plain, replacing, write_text
from mvkit.report.text import ScoreRun
from mvkit.scoring.results import save_scores, with_source

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.neural.selection import SelectionOutcome
    from mvkit.scoring.comparison import Comparison


def run_document(run: ScoreRun, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return a run as plain JSON values (NaN becomes None).

    One model's keys (``settings``, ``protocol``, ``digest``, ``context``, ``layers``, ``areas``,
    ``best_layers``, ``held_out_layers``, ``summary``, ``table2``, ``fractions``) stand at the top; several
    models have them in ``models``, each with its ``name``, and share ``settings``, ``protocol`` and
    ``digest``. ``table2`` is None for a model that the paper's Table 2 does not have; else it holds the
    paper's ``value``, the median ``here``, whether they are ``comparable``, and the ``differences``.
    ``ceiling``, ``comparison`` and ``extrapolation`` are None where there are none; ``units`` counts what the
    selection kept and excluded.

    Parameters
    ----------
    run
        The run.
    files
        Files that were written, listed under ``files``.
    """
    models = [
        {
            "name": name,
            **scores.to_json(),
            "table2": table2_document(run, name),
            "fractions": _records(run.fractions.get(name)),
        }
        for name, scores in run.models.items()
    ]
    shared = {key: models[0][key] for key in ("settings", "protocol", "digest")}
    return {
        **({**shared, "models": models} if len(models) > 1 else models[0]),
        "ceiling": None if run.ceiling is None else run.ceiling.to_json(),
        "comparison": None if run.comparison is None else plain(run.comparison.to_json()),
        "extrapolation": None if run.extrapolation is None else plain(run.extrapolation.to_json()),
        "units": None if run.selection is None else run.selection.to_json(),
        "files": [str(path) for path in files],
    }


def table2_document(run: ScoreRun, name: str) -> dict[str, Any] | None:
    """Return what is said of a model and the paper's Table 2 as plain JSON values, or None."""
    compared = run.table2.get(name)
    return None if compared is None else compared.to_json()


def _records(frame: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    if frame is None:
        return None
    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


CEILING = "ceiling"
FRACTIONS_CSV = "fractions.csv"
COMPARISON_CSV = "comparison.csv"
COMPARISON_JSON = "comparison.json"
EXTRAPOLATION_CSV = "extrapolation.csv"
EXTRAPOLATION_JSON = "extrapolation.json"
UNITS_CSV = "units.csv"


def save_run(run: ScoreRun, out: Path) -> list[Path]:
    """Write a run to a folder, each file whole or not at all.

    One model's files lie in the folder itself, those of several models in a folder each, see
    :func:`mvkit.scoring.save_scores`; the ceiling's in ``ceiling``. Fractions of the ceiling go beside the
    scores (``fractions.csv``), comparisons to ``comparison.csv`` and ``comparison.json``, every unit of the
    areas that were scored with the reason why the selection excluded it, or "", to ``units.csv``.

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
            fractions = with_source(run.fractions[name], scores.context)
            files.append(_write_csv(folder / FRACTIONS_CSV, fractions))
        files += save_scores(scores, folder, also={"table2": table2_document(run, name)})
    if run.ceiling is not None:
        files += save_scores(run.ceiling, out / CEILING)
    if run.extrapolation is not None:
        dataset = {"dataset": run.scores.context.get("dataset", "")}
        table = with_source(run.extrapolation.table(), dataset)
        files.append(_write_csv(out / CEILING / EXTRAPOLATION_CSV, table))
        files.append(_write_json(out / CEILING / EXTRAPOLATION_JSON, run.extrapolation.to_json()))
    if run.comparison is not None:
        files.append(_write_csv(out / COMPARISON_CSV, _comparison_table(run, run.comparison)))
        files.append(_write_json(out / COMPARISON_JSON, run.comparison.to_json()))
    if run.selection is not None:
        files.append(_write_csv(out / UNITS_CSV, _unit_table(run, run.selection)))
    return files


def _comparison_table(run: ScoreRun, comparison: Comparison) -> pd.DataFrame:
    """Return a comparison with the weights of both models and the dataset."""
    contexts = {name: scores.context for name, scores in {**run.models, **run.earlier}.items()}
    table = comparison.table()
    for which in ("first", "second"):
        table[f"{which}_weights"] = [str(contexts[name].get("weights_source", "")) for name in table[which]]
    table["dataset"] = str(run.scores.context.get("dataset", ""))
    return table


def _unit_table(run: ScoreRun, selection: SelectionOutcome) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "dataset": str(run.scores.context.get("dataset", "")),
            "area": selection.areas,
            "specimen": selection.specimens,
            "unit_id": selection.unit_ids,
            "excluded": selection.reasons,
        }
    )


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
