"""Progress bars in terminals and notebooks, and the small tables by which notebooks show objects."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Called with (done, total) as work proceeds; total may be 0 when unknown.
ProgressCallback = Callable[[int, int], None]

#: What ``progress=`` of a public function takes; see :func:`open_progress`.
ProgressOption = bool | ProgressCallback | None

#: Rows of a table that a notebook shows at most; the others are counted.
_MOST_ROWS = 30
#: Of figures in notebooks.
_NOTEBOOK_DPI = 150
#: A notebook's bar is drawn anew after so many seconds.
_REFRESH_S = 0.1


@contextmanager
def quiet_logger(name: str, level: int) -> Iterator[None]:
    """Let a library's logger write nothing below a level, for the length of a block.

    Parameters
    ----------
    name
        Of the logger.
    level
        Such as ``logging.ERROR``.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def open_progress(progress: ProgressOption, label: str) -> Iterator[ProgressCallback | None]:
    """Open what the ``progress`` of a public function asks for.

    Parameters
    ----------
    progress
        A function, which is called with (done, total) itself; True: a bar in any case; False: none;
        None: a bar in notebooks and on terminals only, so that scripts whose output goes to a file stay
        silent.
    label
        What is being done.

    Raises
    ------
    UsageError
        If it is something else.
    """
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            raise UsageError(
                f"progress: must be True, False, None or a function of (done, total), got {progress!r}"
            )
        yield progress
    elif progress is False:
        yield None
    else:
        with progress_bar(label, always=progress is True) as bar:
            yield bar


@contextmanager
def progress_bar(
    label: str, *, bytes_: bool = False, unit: str | None = None, always: bool = False
) -> Iterator[ProgressCallback]:
    """Show a progress bar with rate and time left: on a terminal (on stderr), or in a notebook's cell.

    Parameters
    ----------
    label
        What is being done.
    bytes_
        Whether the counts are bytes.
    unit
        What is counted, if its rate is to be shown on a terminal (``images``: images/s).
    always
        Whether to show it, as text, even if stderr is neither; else it is then silent.
    """
    if is_notebook():
        with _notebook_bar(label) as bar:
            yield bar
    elif always or sys.stderr.isatty():
        with _terminal_bar(label, bytes_=bytes_, unit=unit) as bar:
            yield bar
    else:
        yield lambda done, total: None


def is_notebook() -> bool:
    """Return whether the code runs in a cell of a notebook, as opposed to a terminal or a script."""
    # IPython has been imported by whoever runs a cell; importing it here would take a second.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def _terminal_bar(label: str, *, bytes_: bool, unit: str | None) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class _RateColumn(ProgressColumn):
        """Items per second, lately."""

        def __init__(self, unit: str) -> None:
            super().__init__()
            self._unit = unit

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")

    counts = [DownloadColumn(), TransferSpeedColumn()] if bytes_ else [MofNCompleteColumn()]
    rate = [] if unit is None else [_RateColumn(unit)]
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counts,
        *rate,
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextmanager
def _notebook_bar(label: str) -> Iterator[ProgressCallback]:
    """Show a bar below the cell, which needs neither widgets nor scripts; its last state stays."""
    display: Any = import_module("IPython.display").display
    start, latest, drawn = time.monotonic(), (0, 0), 0.0

    def bundle() -> dict[str, str]:
        text = _progress_text(label, *latest, seconds=time.monotonic() - start)
        done, total = latest
        bar = f'<progress value="{done}" max="{total}"></progress> ' if total else ""
        return {"text/plain": text, "text/html": f"<div>{bar}{escape(text)}</div>"}

    handle = display(bundle(), raw=True, display_id=True)

    def update(done: int, total: int) -> None:
        nonlocal latest, drawn
        latest = done, total
        if (now := time.monotonic()) - drawn >= _REFRESH_S:
            drawn = now
            handle.update(bundle(), raw=True)

    try:
        yield update
    finally:
        handle.update(bundle(), raw=True)


def _progress_text(label: str, done: int, total: int, *, seconds: float) -> str:
    """Return ``scoring gabor: 3 of 12, 0:05 gone, 0:15 left``; without what is not known."""
    parts = [f"{done:,} of {total:,}" if total else f"{done:,}" if done else "...", _minutes(seconds)]
    if total and 0 < done < total:
        parts = [parts[0], f"{parts[1]} gone", f"about {_minutes(seconds * (total - done) / done)} left"]
    return f"{label}: {', '.join(parts)}"


def _minutes(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes}:{second:02d}"


def drawing(function: str, module: str = "mvkit.report.figures") -> Callable[..., Figure]:
    """Return a function that draws, for a method such as ``Scores.plot``.

    It is found by its name when it is first needed: results rank before the report that draws them, and know
    nothing else of it.

    Parameters
    ----------
    function, module
        Names.
    """
    if is_notebook():
        _show_figures()
    draw: Callable[..., Figure] = getattr(import_module(module), function)
    return draw


def _show_figures() -> None:
    """Let a notebook show figures that belong to no pyplot, unless it does already."""
    figure: Any = import_module("matplotlib.figure").Figure
    formatter = sys.modules["IPython"].get_ipython().display_formatter.formatters["image/png"]
    try:
        formatter.lookup_by_type(figure)
    except KeyError:
        print_figure = import_module("IPython.core.pylabtools").print_figure
        formatter.for_type(figure, lambda shown: print_figure(shown, "png", dpi=_NOTEBOOK_DPI))


def html_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, note: str = ""
) -> str:
    """Return a small table for ``_repr_html_``, without scripts, styles of its own or outside resources.

    Parameters
    ----------
    title, note
        Text above and below the table.
    columns
        Heads.
    rows
        Cells: text stands left, numbers right; floats get three decimals, NaN is empty. All of it is escaped.
        Of many rows the first 30 are shown and the others counted.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:_MOST_ROWS])
    more = f"... and {len(rows) - _MOST_ROWS} more rows" if len(rows) > _MOST_ROWS else ""
    below = "".join(f"<div>{escape(text)}</div>" for text in (more, note) if text)
    return (
        f"<div><strong>{escape(title)}</strong>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td style="text-align: right">{"" if value != value else f"{value:.3f}"}</td>'
    if isinstance(value, int):
        return f'<td style="text-align: right">{value:,}</td>'
    return f'<td style="text-align: left">{escape(str(value))}</td>'
