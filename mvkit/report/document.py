"""A scoring run as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.jsonable import plain
from mvkit.report.outcome import ScoreRun

if TYPE_CHECKING:
    import pandas as pd


def run_document(run: ScoreRun, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return a run as plain JSON values (NaN becomes None).

    One model's keys (``settings``, ``protocol``, ``digest``, ``context``, ``layers``, ``areas``,
    ``best_layers``, ``held_out_layers``, ``summary``, ``table2``, ``fractions``) stand at the top; several
    models have them in ``models``, each with its ``name``, and share ``settings``, ``protocol`` and
    ``digest``. ``table2`` is None for a model that the paper's Table 2 does not have; else it holds the
    paper's ``value``, the median ``here``, whether they are ``comparable``, and the ``differences``.
    ``ceiling``, ``comparison`` and ``extrapolation`` are None where there are none.

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
