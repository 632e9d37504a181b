"""Sizes, fonts, colours, legend and small print of all figures; and saving them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.files import check_output_path, replacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvkit.scoring import Scores

#: Suffix -> metadata to leave out, so that equal figures are equal files.
FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
DOTS_PER_INCH = 300
#: Columns of a journal's page -> width in inches.
COLUMN_WIDTHS_IN = {1: 3.5, 2: 7.2}
WIDTH_LIMITS_IN = (2.0, 30.0)
INK, GREY, PALE = "#222222", "#767676", "#dddddd"
#: Points.
FONT_SIZE, SMALL, TITLE = 7.0, 6.0, 8.0
#: An interval over fewer animals says more about their number than about the model.
FEWEST_ANIMALS = 3
_MARGIN_IN = 0.06
_LINE = 1.25
#: The first of these that is installed, and the last one, which comes with matplotlib.
_FONTS = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
_CAPTION = "caption"


@dataclass(frozen=True)
class FigureStyle:
    """How wide a figure is and what is written on it.

    Attributes
    ----------
    width_in
        Width in inches; None: one or two columns of a journal (3.5 or 7.2), as the figure needs.
    titles
        Whether title and small print stand on the figure; without them, :func:`caption_of` has both.

    Raises
    ------
    UsageError
        If the width is not between 2 and 30 inches.
    """

    width_in: float | None = None
    titles: bool = True

    def __post_init__(self) -> None:
        """Check the width."""
        low, high = WIDTH_LIMITS_IN
        if self.width_in is not None and not low <= self.width_in <= high:
            raise UsageError(f"width of {self.width_in:g} inches: give {low:g} to {high:g}")

    def width(self, columns: int) -> float:
        """Return the width in inches, by default that of so many columns."""
        return COLUMN_WIDTHS_IN[columns] if self.width_in is None else self.width_in


def check_figure(path: Path) -> None:
    """Check the file of a figure before hours of work end in it.

    Raises
    ------
    UsageError
        If the suffix is that of no format, the path is a folder, or nothing can be written there.
    """
    check_suffix(path)
    check_output_path(path, overwrite=True, example="figure.pdf")


def check_suffix(path: Path) -> None:
    """Check that the suffix of a file names a format.

    Raises
    ------
    UsageError
        Naming the valid ones.
    """
    if path.suffix.lower() not in FORMATS:
        given = f"suffix '{path.suffix}'" if path.suffix else "no suffix"
        raise UsageError(f"{path}: {given} names no figure format; valid: {', '.join(FORMATS)}")


def save_figure(figure: Figure, path: Path, *, dpi: int = DOTS_PER_INCH, text: bool = False) -> Path:
    """Write a figure, whole or not at all; equal figures give equal bytes with one version of matplotlib.

    Parameters
    ----------
    figure
        The figure.
    path
        File ending in .png, .pdf (fonts embedded as TrueType) or .svg.
    dpi
        Dots per inch of .png, and of pictures inside .pdf and .svg.
    text
        Whether .svg holds text as text, which can be edited and takes the reader's fonts; else as outlines.

    Raises
    ------
    UsageError
        If the suffix names no format, or ``dpi`` is not between 10 and 2400.
    """
    check_suffix(path)
    if not 10 <= dpi <= 2400:
        raise UsageError(f"dpi of {dpi}: give 10 to 2400")
    suffix = path.suffix.lower()
    with own_look({"svg.fonttype": "none" if text else "path"}), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], metadata=FORMATS[suffix], dpi=dpi)
    return path


@contextmanager
def own_look(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw with mvkit's settings of matplotlib, whatever a matplotlibrc says, and put the user's back."""
    import matplotlib

    look: Any = {
        "font.family": ["sans-serif"],
        "font.sans-serif": _installed_fonts(),
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "axes.labelsize": FONT_SIZE,
        "xtick.labelsize": FONT_SIZE,
        "ytick.labelsize": FONT_SIZE,
        "legend.fontsize": FONT_SIZE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.titlepad": 3.0,
        "axes.labelpad": 2.5,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.unicode_minus": True,
        "text.color": INK,
        "text.usetex": False,
        "mathtext.fontset": "dejavusans",
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "hatch.linewidth": 0.5,
        "figure.dpi": 150.0,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "savefig.bbox": None,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "mvkit",
        **(changes or {}),
    }
    with matplotlib.rc_context(look):
        yield


@cache
def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    # Names of fonts that are missing would be warned about.
    names = {entry.name for entry in font_manager.fontManager.ttflist}
    return list(dict.fromkeys((next((font for font in _FONTS if font in names), _FONTS[-1]), _FONTS[-1])))


# --- The page of a figure: title, panels, legend, small print ---


def new_figure(
    width_in: float,
    height_in: float,
    *,
    title: str = "",
    note: str = "",
    x_label: str = "",
    y_label: str = "",
    handles: Sequence[Artist] = (),
    style: FigureStyle | None = None,
) -> Figure:
    """Return a figure that belongs to no window: title above, legend and small print below, room for panels.

    Call it within :func:`own_look`.

    Parameters
    ----------
    width_in, height_in
        Width of the figure, and height of the panels with their labels, in inches.
    title, note
        Broken into lines that fit.
    x_label, y_label
        Labels of axes that all panels share.
    handles
        Of the legend, read row by row.
    style
        Whether title and small print are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Figure = _figure_class()(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    titles = style is None or style.titles
    room = width_in - 2 * _MARGIN_IN
    lines_of_title = wrap(figure, title, room, TITLE, bold=True) if titles and title else []
    lines_of_note = wrap(figure, note, room, SMALL) if titles and note else []
    legend = _legend(figure, handles, room) if handles else None
    above = _MARGIN_IN + _height(lines_of_title, TITLE) + (0.04 if lines_of_title else 0.0)
    small_print = _height(lines_of_note, SMALL)
    gap = 0.05 if lines_of_note else 0.0
    legend_height = 0.0
    if legend is not None:
        legend_height = legend.get_window_extent(_renderer(figure)).height / figure.dpi + 0.03
    below = _MARGIN_IN + small_print + gap + legend_height
    total = above + height_in + below
    figure.set_size_inches(width_in, total)
    if lines_of_title:
        figure.text(
            _MARGIN_IN / width_in,
            1 - _MARGIN_IN / total,
            "\n".join(lines_of_title),
            ha="left",
            va="top",
            fontsize=TITLE,
            fontweight="bold",
            linespacing=_LINE,
            gid="title",
        )
    if lines_of_note:
        figure.text(
            _MARGIN_IN / width_in,
            (_MARGIN_IN + small_print) / total,
            "\n".join(lines_of_note),
            ha="left",
            va="top",
            fontsize=SMALL,
            color=GREY,
            linespacing=_LINE,
            gid="note",
        )
    if legend is not None:
        bottom = (_MARGIN_IN + small_print + gap) / total
        legend.set_bbox_to_anchor((_MARGIN_IN / width_in, bottom), transform=figure.transFigure)
    label_height = FONT_SIZE * _LINE / 72
    left, bottom = label_height * bool(y_label) + 0.02, below + label_height * bool(x_label)
    rect = (left / width_in, bottom / total, 1.0 - left / width_in, (total - above - bottom) / total)
    middle = {"x": rect[0] + 0.5 * rect[2], "y": rect[1] + 0.5 * rect[3]}
    if x_label:
        figure.text(middle["x"], (below + 0.02) / total, x_label, ha="center", va="bottom", gid="x label")
    if y_label:
        lines = wrap(figure, y_label, total - above - below, FONT_SIZE)
        rotated: Any = {"rotation": 90, "rotation_mode": "default", "gid": "y label"}
        figure.text(_MARGIN_IN / width_in, middle["y"], "\n".join(lines), ha="left", va="center", **rotated)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=rect, w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.04)
    # A label is neither drawn nor written to files.
    figure.set_label(f"{_CAPTION}:" + " ".join(_sentence(part) for part in (title, note) if part))
    return figure


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def caption_of(figure: Figure) -> str:
    """Return title and small print of a figure as sentences, for its caption; "" of figures of others."""
    label = str(figure.get_label())
    return label.removeprefix(f"{_CAPTION}:") if label.startswith(f"{_CAPTION}:") else ""


@cache
def _figure_class() -> type[Figure]:
    from io import BytesIO

    from matplotlib.figure import Figure

    class _Figure(Figure):
        """A figure that notebooks show although it belongs to no pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            with own_look():
                self.savefig(buffer, format="png", dpi=150)
            return buffer.getvalue()

    return _Figure


def wrap(figure: Figure, text: str, width_in: float, size: float, *, bold: bool = False) -> list[str]:
    """Break a text into lines that are not wider than ``width_in`` at a font size in points."""

    def fits(line: str) -> bool:
        return text_width_in(figure, line, size, bold=bold) <= width_in

    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and fits(f"{line} {word}"):
                line = f"{line} {word}"
                continue
            if line:
                lines.append(line)
            line = word
            # A name without spaces is broken where it must be.
            while len(line) > 1 and not fits(line):
                n_letters = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or fits(line[:n]))
                lines.append(line[:n_letters])
                line = line[n_letters:]
        lines.append(line)
    return lines


def text_width_in(figure: Figure, text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of one line of text in inches."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = _renderer(figure).get_text_width_height_descent(text, font, ismath=False)
    return float(width) / figure.dpi


def _renderer(figure: Figure) -> Any:
    canvas: Any = figure.canvas
    return canvas.get_renderer()


def figure_of(axes: Axes) -> Figure:
    """Return the figure of a panel."""
    figure: Any = axes.get_figure()
    return figure  # type: ignore[no-any-return]


def _height(lines: Sequence[str], size: float) -> float:
    return len(lines) * size * _LINE / 72


def _legend(figure: Figure, handles: Sequence[Artist], room_in: float) -> Any:
    """Add a legend that is read row by row, with as many columns as fit."""
    labels = [str(handle.get_label()) for handle in handles]
    # Handle, its pad and the space between columns, in units of the font size.
    beside = (1.8 + 0.5 + 1.6) * FONT_SIZE / 72
    labels = ["\n".join(wrap(figure, label, room_in - beside, FONT_SIZE)) for label in labels]
    widest = max(text_width_in(figure, line, FONT_SIZE) for label in labels for line in label.split("\n"))
    n_columns = max(1, min(len(handles), int((room_in + 1.6 * FONT_SIZE / 72) / (widest + beside))))
    # As few columns as these rows need, so that the last row is not almost empty.
    n_columns = -(-len(handles) // -(-len(handles) // n_columns))
    order = row_major(len(handles), n_columns)
    return figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="lower left",
        ncols=n_columns,
        frameon=False,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.6,
        labelspacing=0.35,
        borderpad=0.0,
        borderaxespad=0.0,
    )


def row_major(n: int, n_columns: int) -> list[int]:
    """Return the order of ``n`` entries in which a legend, filled column by column, is read row by row."""
    return [index for column in range(n_columns) for index in range(column, n, n_columns)]


def panels(figure: Figure, n: int, n_columns: int, **options: Any) -> list[Axes]:
    """Return ``n`` panels in rows of at most ``n_columns``, with shared axes as ``options`` say."""
    n_columns = min(n, n_columns)
    n_rows = -(-n // n_columns)
    grid = figure.subplots(n_rows, n_columns, squeeze=False, **options)
    flat = list(grid.ravel())
    for index, spare in enumerate(flat[n:], start=n):
        spare.remove()
        # The panel above is the last one of its column now; its labels hang into the empty place.
        flat[index - n_columns].tick_params(labelbottom=True)
        flat[index - n_columns].xaxis.set_in_layout(False)
    return flat[:n]


def label_panel(axes: Axes, name: str, counts: str = "") -> None:
    """Write the name of a panel, and what is in it in small letters below."""
    axes.set_title(name, loc="left", fontweight="bold", pad=11.0 if counts else 3.0)
    if counts:
        axes.annotate(
            counts,
            (0.0, 1.0),
            xytext=(0.0, 3.0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=SMALL,
            color=GREY,
        )


def label_y(axes: Axes, text: str, height_in: float) -> None:
    """Label a y axis of about this height, in as many lines as it needs."""
    axes.set_ylabel("\n".join(wrap(figure_of(axes), text, height_in, FONT_SIZE)), linespacing=1.1)


# --- Colours ---

#: Paul Tol's "muted" colours, which all kinds of colour vision tell apart.
PALETTE = (
    "#332288",
    "#CC6677",
    "#117733",
    "#88CCEE",
    "#DDCC77",
    "#882255",
    "#44AA99",
    "#AA4499",
    "#999933",
)
#: Baselines are grey, the released networks and their architectures have colours of their own.
_OWN_COLOURS = {
    "pixels": "#BBBBBB",
    "gabor": "#777777",
    **dict.fromkeys(("alexnet_bn_ir", "alexnet_bn", "alexnet_bn_ir_64x64_input_pool_6"), PALETTE[0]),
    **dict.fromkeys(("dual_stream_ir", "simplified_mousenet_dual_stream_visp_3x3_ir"), PALETTE[1]),
    **dict.fromkeys(("six_stream_simclr", "simplified_mousenet_six_stream_visp_3x3_simclr"), PALETTE[2]),
    **dict.fromkeys(("shi_mousenet_ir", "shi_mousenet"), PALETTE[3]),
    **dict.fromkeys(("shi_mousenet_vispor5_ir", "shi_mousenet_vispor5"), PALETTE[4]),
}
AREA_COLOURS = {
    "VISp": PALETTE[0],
    "VISl": PALETTE[3],
    "VISrl": PALETTE[6],
    "VISal": PALETTE[2],
    "VISpm": PALETTE[4],
    "VISam": PALETTE[1],
    "all": INK,
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_RANDOM = re.compile(r" \(random, seed \d+\)$")


@dataclass(frozen=True)
class Look:
    """How a model, a run or an area is drawn wherever it appears.

    Attributes
    ----------
    colour
        Hex colour.
    marker
        Of points, tied to the colour.
    random
        Whether weights are random: bars are hatched, points open, lines dashed.
    """

    colour: str
    marker: str = "o"
    random: bool = False

    def bar(self) -> dict[str, Any]:
        """Return the style of a bar."""
        if self.random:
            return {
                "facecolor": _tint(self.colour),
                "edgecolor": self.colour,
                "hatch": "//////",
                "linewidth": 0.6,
            }
        return {"facecolor": self.colour, "edgecolor": self.colour, "linewidth": 0.6}

    def line(self) -> dict[str, Any]:
        """Return the style of a line with points."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": 3.5,
            "linewidth": 1.1,
            "linestyle": (0, (3, 1.5)) if self.random else "-",
            "markerfacecolor": "white" if self.random else self.colour,
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.8,
        }


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Give every name its look, the same in every figure and in whatever order names are given.

    Parameters
    ----------
    names
        Labels of models or runs. Random weights (``NAME (random, seed 0)``) have the colour of the model.

    Returns
    -------
    dict
        Baselines are grey, released networks have fixed colours, any other name one of nine that follows
        from its letters. Where two names of one figure would have the same, the one that comes later in the
        alphabet takes the next free colour; more than nine share colours.
    """
    unique = list(dict.fromkeys(names))
    # Names with a colour of their own never give way.
    order = sorted(unique, key=lambda name: (_base(name) not in _OWN_COLOURS, name))
    chosen: dict[str, Look] = {}
    for name in order:
        random = _RANDOM.search(name) is not None
        own = _OWN_COLOURS.get(_base(name))
        first = _hash(_base(name)) if own not in PALETTE else PALETTE.index(own)
        options = [PALETTE[(first + step) % len(PALETTE)] for step in range(len(PALETTE))]
        if own is not None:
            options = list(dict.fromkeys((own, *options)))
        taken = {(look.colour, look.random) for look in chosen.values()}
        colour = next((option for option in options if (option, random) not in taken), options[0])
        chosen[name] = Look(colour, _marker(colour), random)
    return {name: chosen[name] for name in unique}


def area_look(area: str) -> Look:
    """Return the look of an area; the same for all areas beyond the six."""
    colour = AREA_COLOURS.get(area, GREY)
    return Look(colour, _marker(colour))


def _base(name: str) -> str:
    return _RANDOM.sub("", name)


def _hash(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(PALETTE)


def _marker(colour: str) -> str:
    return _MARKERS[PALETTE.index(colour) % len(_MARKERS)] if colour in PALETTE else "o"


def _tint(colour: str) -> str:
    """Mix a colour with white."""
    parts = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - 0.2 * (255 - part)):02x}" for part in parts)


# --- Words ---


def recordings_name(dataset: str) -> str:
    """Return a dataset's name for titles; simulated recordings are called so, in capitals."""
    return "SIMULATED data, not mouse recordings" if dataset == "simulated" else dataset


def title_with(first: str, dataset: str, link: str = "on") -> str:
    """Put the dataset behind a title, unless it is unknown."""
    return f"{first} {link} {recordings_name(dataset)}" if dataset else first


def dataset_of(scores: Scores) -> str:
    """Return the name of the dataset of scores, or ""."""
    return str(scores.context.get("dataset", ""))


def layer_name(model: str, layer: str) -> str:
    """Name a layer of a model; the only layer of pixels is called like the model."""
    return model if layer == model else f"{model}, {layer}"


def count_range(numbers: Iterable[int], noun: str) -> str:
    """Write a number of things, or a range of numbers: ``12 units``, ``10–12 units``."""
    values = [int(number) for number in numbers]
    low, high = min(values), max(values)
    return (
        f"{low:,}"
        + (f"\N{EN DASH}{high:,}" if high > low else "")
        + f" {noun}{'' if high == low == 1 else 's'}"
    )


def known(value: float) -> bool:
    """Tell whether a number is one."""
    return not math.isnan(value)
