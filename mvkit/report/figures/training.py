"""Figure of training: loss and evaluations over the epochs of one or several runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import DataError, UsageError
from mvkit.report.figures.style import (
    INK,
    PALE,
    FigureStyle,
    Look,
    area_look,
    looks,
    new_figure,
    own_look,
    panels,
)
from mvkit.report.tables import area_name
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The file in a run's folder, written by ``mvkit train``.
LOG = "log.jsonl"
#: The evaluation of a recipe that scores on recordings; its values are areas.
NEURAL = "neural_predictivity"
#: Of other evaluations one value is drawn: the first of these that there is.
_HEADLINES = ("top1", "loss")
_PANEL_IN = 1.75

#: Values at epochs.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class TrainingLog:
    """What a run's log says epoch by epoch.

    Attributes
    ----------
    folder
        Of the run.
    loss
        (epoch, mean loss) of every finished epoch.
    steps
        (epoch as a fraction, loss) of every step that was logged.
    evaluations
        Name (``neural_predictivity.VISp``) -> (epoch, value) of every evaluation; values that are not
        numbers are left out.
    """

    folder: Path
    loss: Curve
    steps: Curve = ()
    evaluations: Mapping[str, Curve] = field(default_factory=dict)


def read_training_log(folder: Path) -> TrainingLog:
    """Read the log of a training run, finished or not.

    Parameters
    ----------
    folder
        Folder that ``mvkit train --out`` wrote, or its ``log.jsonl``.

    Raises
    ------
    DataError
        If there is no log, or no epoch in it.
    """
    path = folder if folder.name == LOG else folder / LOG
    if not path.is_file():
        raise DataError(f"{folder}: no {LOG} here; is this a folder written by 'mvkit train'?")
    try:
        return _parse_log(path)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore it from a copy"
        ) from error


def _parse_log(path: Path) -> TrainingLog:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            # The last line of a run that goes on, or was killed.
            continue
        if isinstance(record, dict):
            records.append(record)
    epochs = [record for record in records if record.get("kind") == "epoch"]
    if not epochs:
        raise DataError(f"{path}: no epoch is finished yet")
    per_epoch = epochs[0]["step"] / epochs[0]["epoch"]
    evaluations: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record.get("kind") == "evaluation":
            for name, value in record.items():
                if name not in ("kind", "step", "epoch") and _is_number(value):
                    evaluations.setdefault(name, []).append((float(record["epoch"]), float(value)))
    return TrainingLog(
        folder=path.parent,
        loss=_curve((record["epoch"], record.get("loss")) for record in epochs),
        steps=_curve(
            (record["step"] / per_epoch, record.get("loss"))
            for record in records
            if record.get("kind") == "step"
        ),
        evaluations=evaluations,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _curve(points: Any) -> Curve:
    return [(float(epoch), float(value)) for epoch, value in points if _is_number(value)]


def label_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Name runs by their folders' names, or by their paths where two have the same.

    Raises
    ------
    UsageError
        If none is given.
    """
    if not folders:
        raise UsageError("give a folder that 'mvkit train' wrote")
    unique = list(dict.fromkeys(folder.parent if folder.name == LOG else folder for folder in folders))
    names = [folder.resolve().name for folder in unique]
    return {
        name if names.count(name) == 1 else str(folder): folder
        for name, folder in zip(names, unique, strict=True)
    }


def draw_training(logs: Mapping[str, TrainingLog], *, style: FigureStyle | None = None) -> Figure:
    """Draw the loss and every evaluation over the epochs, a panel each.

    Parameters
    ----------
    logs
        Label -> log of a run.
    style
        Width and titles.

    Returns
    -------
    Figure
        The first panel has the mean loss of every epoch, of a single run also that of every step; then one
        panel for every evaluation. Predictivity of recordings has a line per area for a single run, and the
        one over all areas for several.

    Raises
    ------
    UsageError
        If there is no run.
    """
    style = style or FigureStyle()
    if not logs:
        raise UsageError("nothing to draw: no training run")
    single = len(logs) == 1
    names = _evaluations(logs)
    n_panels = 1 + len(names)
    with own_look():
        # A single run is black: colours are its areas'.
        look_of = {name: Look(INK) for name in logs} if single else looks(logs)
        width = style.width(1 if n_panels == 1 else 2)
        n_columns = max(1, min(3, n_panels, int(width / 1.9)))
        n_rows = -(-n_panels // n_columns)
        areas = _areas(next(iter(logs.values()))) if single else []
        only = next(iter(logs))
        figure = new_figure(
            width,
            n_rows * (_PANEL_IN + 0.25) + 0.2,
            title=f"Training of {only}" if single else f"Training of {len(logs)} runs",
            x_label="epoch",
            note=_note(logs, names, single=single),
            handles=_handles(look_of, areas, single=single),
            style=style,
        )
        grid = panels(figure, n_panels, n_columns, sharex=True)
        _draw_loss(grid[0], logs, look_of, single=single)
        for axes, name in zip(grid[1:], names, strict=True):
            if name.startswith(NEURAL) and single:
                log = logs[only]
                for area in areas:
                    _draw(axes, log.evaluations.get(f"{name}.{area}", ()), area_look(area))
                axes.set_title("neural predictivity", loc="left", fontweight="bold")
            else:
                for run, log in logs.items():
                    key = _headline(log, name)
                    if key:
                        _draw(axes, log.evaluations[key], look_of[run])
                axes.set_title(_title(logs, name), loc="left", fontweight="bold")
            if name.startswith(NEURAL):
                axes.set_ylabel("noise-corrected score (median)")
    return figure


def _evaluations(logs: Mapping[str, TrainingLog]) -> list[str]:
    """Return names of evaluations, predictivity first."""
    names = dict.fromkeys(key.rpartition(".")[0] for log in logs.values() for key in log.evaluations)
    return sorted(names, key=lambda name: not name.startswith(NEURAL))


def _areas(log: TrainingLog) -> list[str]:
    return list(
        dict.fromkeys(key.rpartition(".")[2] for key in log.evaluations if key.startswith(f"{NEURAL}"))
    )


def _headline(log: TrainingLog, name: str) -> str:
    """Return the value of an evaluation that is drawn, or "" if the run has none."""
    own = [key for key in log.evaluations if key.rpartition(".")[0] == name]
    wanted = [f"{name}.{last}" for last in (ALL_AREAS, *_HEADLINES)]
    return next((key for key in wanted if key in own), own[0] if own else "")


def _title(logs: Mapping[str, TrainingLog], name: str) -> str:
    key = next(filter(None, (_headline(log, name) for log in logs.values())))
    words = name.replace("_", " ")
    last = key.rpartition(".")[2]
    return f"{words}, {area_name(last)}" if name.startswith(NEURAL) else f"{words}: {last}"


def _note(logs: Mapping[str, TrainingLog], names: Sequence[str], *, single: bool) -> str:
    parts = ["Loss: mean over the steps of an epoch" + (", pale: of every step" if single else "")]
    if any(name.startswith(NEURAL) for name in names):
        parts.append("predictivity: best layer of each area, chosen on the test images it is scored on")
    if len({len(log.loss) for log in logs.values()}) > 1:
        parts.append("runs differ in their number of epochs")
    return "; ".join(parts)


def _handles(look_of: Mapping[str, Look], areas: Sequence[str], *, single: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    if single:
        return [Line2D([], [], label=area_name(area), **area_look(area).line()) for area in areas]
    return [Line2D([], [], label=name, **look.line()) for name, look in look_of.items()]


def _draw_loss(
    axes: Axes, logs: Mapping[str, TrainingLog], look_of: Mapping[str, Look], *, single: bool
) -> None:
    for run, log in logs.items():
        if single and log.steps:
            axes.plot(*zip(*log.steps, strict=True), color=PALE, linewidth=0.6, zorder=1, gid="steps")
        _draw(axes, log.loss, look_of[run])
    axes.set_title("training loss", loc="left", fontweight="bold")
    shown = [value for log in logs.values() for _, value in log.loss]
    if min(shown) > 0 and max(shown) > 50 * min(shown):
        axes.set_yscale("log")


def _draw(axes: Axes, curve: Curve, look: Look) -> None:
    from matplotlib.ticker import MaxNLocator

    if curve:
        marker = {"marker": ""} if len(curve) > 40 else {"markersize": 2.5}
        axes.plot(*zip(*curve, strict=True), zorder=3, gid="epochs", **{**look.line(), **marker})
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
