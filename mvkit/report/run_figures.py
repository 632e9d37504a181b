"""The figures of a scoring run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import UsageError
from mvkit.naming import suggest

if TYPE_CHECKING:
    from mvkit.report.outcome import ScoreRun

#: Formats that figures can have.
SUFFIXES = (".svg", ".png", ".pdf")


def check_figure(path: Path) -> None:
    """Refuse a figure's file of another format, before hours of work end in it.

    Raises
    ------
    UsageError
        If the suffix is none of :data:`SUFFIXES`, or the path is a folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--figure {path}: unknown format '{path.suffix}'{suggest(path.suffix, SUFFIXES)}\n"
            f"valid: {', '.join(SUFFIXES)}"
        )
    if path.is_dir():
        raise UsageError(f"--figure {path}: is a folder; give the name of a file")


def draw_run(run: ScoreRun, path: Path) -> list[Path]:
    """Draw a run: scores of every model with intervals and the ceiling; and the extrapolation beside it.

    Parameters
    ----------
    run
        The run.
    path
        File of the scores' figure; that of an extrapolation has ``-extrapolation`` before the suffix.

    Returns
    -------
    list of Path
        The files written.
    """
    from mvkit.report.figures import extrapolation_figure, scores_figure

    choices = {name: scores.headline_layers() for name, scores in run.models.items()}
    scores_figure(choices, path, ceiling=run.ceiling)
    if run.extrapolation is None:
        return [path]
    beside = path.with_name(f"{path.stem}-extrapolation{path.suffix}")
    extrapolation_figure(run.extrapolation, beside)
    return [path, beside]
