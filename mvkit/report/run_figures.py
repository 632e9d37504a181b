"""The figures of a scoring run."""

from __future__ import annotations

from pathlib import Path

from mvkit.errors import UsageError
from mvkit.report.figures import extrapolation_figure, scores_figure
from mvkit.report.figures_style import check_suffix, labels_of
from mvkit.report.outcome import ScoreRun


def check_figure(path: Path) -> None:
    """Refuse a figure's file before hours of work end in it.

    Raises
    ------
    UsageError
        If the suffix is that of no format, or the path is a folder.
    """
    check_suffix(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file")


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
    labels = labels_of(run.scores)
    paper = run.scores.settings.layer_choice == "paper"
    choices = {
        name: scores.best_layers() if paper else scores.held_out_layers()
        for name, scores in {**run.models, **run.earlier}.items()
    }
    ceiling = None if run.ceiling is None else run.ceiling.summary()
    files = [scores_figure(choices, path, ceiling=ceiling, labels=labels)]
    if run.extrapolation is not None:
        beside = path.with_name(f"{path.stem}-extrapolation{path.suffix}")
        files.append(extrapolation_figure(run.extrapolation, beside, labels=labels))
    return files
