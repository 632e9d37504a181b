"""What all figures share: formats, colours, titles."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.atomic import replacing
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores

#: Suffix -> what a file must not say of when and how it was made, so that equal figures are equal files.
FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
DOTS_PER_INCH = 160
#: Mean width of a letter in titles and legends.
TITLE_LETTER_IN = 0.08
_MARGIN_IN = 0.7
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
#: Panels beside one another in figures of many areas.
COLUMNS = 4

# Whatever a user's matplotlibrc says, a figure looks the same.
_LOOK: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "mvkit",
    "text.usetex": False,
}


@dataclass(frozen=True)
class FigureLabels:
    """What the tables do not say of themselves.

    Attributes
    ----------
    dataset
        Name of the recordings, "" = leave out.
    simulated
        Whether they are simulated; then the title says so, in capitals.
    confidence
        Coverage of the intervals.
    """

    dataset: str = ""
    simulated: bool = False
    confidence: float = 0.95

    @property
    def percent(self) -> str:
        """The coverage as text, e.g. ``"95%"``."""
        return f"{100 * self.confidence:g}%"

    def title(self, first: str, *more: str, width_in: float) -> str:
        """Put the dataset behind the first line of a title and more lines below, broken to fit a width."""
        recordings = "SIMULATED data, not mouse recordings" if self.simulated else self.dataset
        lines = (f"{first} ({recordings})" if recordings else first, *filter(None, more))
        n_letters = int((width_in - _MARGIN_IN) / TITLE_LETTER_IN)
        return "\n".join(textwrap.fill(line, n_letters) for line in lines)


def labels_of(scores: Scores) -> FigureLabels:
    """Take the labels from scores of the dataset that is drawn."""
    dataset = str(scores.context.get("dataset", ""))
    return FigureLabels(dataset, dataset == "simulated", scores.settings.confidence)


@contextmanager
def own_look() -> Iterator[None]:
    """Draw with mvkit's settings of matplotlib, and put the user's back."""
    import matplotlib

    with matplotlib.rc_context(_LOOK):
        yield


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all; equal figures give equal bytes with one version of matplotlib.

    Raises
    ------
    UsageError
        If the suffix names no format.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    with own_look(), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], metadata=FORMATS[suffix], dpi=DOTS_PER_INCH)
    return path


def check_suffix(path: Path) -> None:
    """Refuse the name of a figure whose suffix names no format; of use before long work.

    Raises
    ------
    UsageError
        Naming the valid ones.
    """
    if path.suffix.lower() not in FORMATS:
        given = f"suffix '{path.suffix}'" if path.suffix else "no suffix"
        raise UsageError(f"{path}: {given} names no figure format; valid: {', '.join(FORMATS)}")


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that belongs to no window and no pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(figure: Figure, n: int) -> list[Axes]:
    """Return ``n`` panels in rows, with shared y axes."""
    n_columns = min(n, COLUMNS)
    grid = figure.subplots(-(-n // n_columns), n_columns, sharey=True, squeeze=False)
    flat = list(grid.ravel())
    for spare in flat[n:]:
        spare.set_visible(False)
    return flat[:n]


def panel_size(n: int) -> tuple[float, float]:
    """Return width and height in inches of a figure of ``n`` panels."""
    n_columns = min(n, COLUMNS)
    return 1.2 + 2.5 * n_columns, 1.5 + 2.3 * -(-n // n_columns)


def shades(n: int) -> list[str]:
    """Return ``n`` colours from dark to light that differ in lightness, for all eyes and in grey print."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    cividis = colormaps["cividis"]
    # A single model needs no contrast to others; the lightest yellow would not show on white.
    places = [0.35] if n == 1 else [0.08 + 0.84 * place / (n - 1) for place in range(n)]
    return [to_hex(cividis(place)) for place in places]


def counted(low: int, high: int, noun: str) -> str:
    """Write ``12 units`` or, where it differs between models, ``10-12 units``."""
    return f"{low} {noun}{'' if low == 1 else 's'}" if low == high else f"{low}-{high} {noun}s"


def error_bars(median: float, low: float, high: float) -> tuple[float, float]:
    """Return the lengths of error bars; 0 where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return 0.0, 0.0
    return max(median - low, 0.0), max(high - median, 0.0)
