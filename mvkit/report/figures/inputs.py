"""Figure of what a network sees: images as they are, under viewing conditions, and as its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.report.figures.style import FigureStyle, label_panel, new_figure, own_look, recordings_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """Some images on their way into a network.

    Attributes
    ----------
    model, stimuli
        Names.
    labels
        One per image.
    images
        As they were given: uint8 (height, width) or (height, width, 3) each.
    seen
        The same under the viewing conditions; () if nothing is changed.
    inputs
        As the network is given them, grey levels or colours as floats in [0, 1], (height, width) or (height,
        width, 3) each: before the mean is subtracted.
    viewing
        The viewing conditions in words, or "".
    """

    model: str
    stimuli: str
    labels: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]
    seen: tuple[NDArray[np.uint8], ...]
    inputs: tuple[NDArray[np.floating[Any]], ...]
    viewing: str = ""


def draw_inputs(inputs: NetworkInputs, *, style: FigureStyle | None = None) -> Figure:
    """Draw images, what is seen of them, and a network's input, an image a row.

    Parameters
    ----------
    inputs
        The images.
    style
        Width and titles.

    Returns
    -------
    Figure
        Two or three columns. Pixels are drawn as they are, from black (0) to white (255).

    Raises
    ------
    DataError
        If there are no images.
    """
    style = style or FigureStyle()
    if not inputs.images:
        raise DataError("no images to draw")
    columns: list[tuple[str, str, Sequence[NDArray[Any]]]] = [("image", _size(inputs.images), inputs.images)]
    if inputs.seen:
        columns.append(("as it is seen", _size(inputs.seen), inputs.seen))
    columns.append(("input of the network", _size(inputs.inputs), inputs.inputs))
    note = "Every picture from black (0) to white (255), each pixel a square"
    if inputs.seen:
        note += f"; seen with {inputs.viewing}"
    with own_look():
        width_in = style.width(2 if inputs.seen else 1)
        side = width_in / len(columns)
        shape = inputs.images[0].shape
        row_in = side * min(1.0, shape[0] / shape[1])
        title = f"What {inputs.model} sees of {recordings_name(inputs.stimuli)}"
        figure = new_figure(width_in, row_in * len(inputs.images) + 0.3, title=title, note=note, style=style)
        axes = figure.subplots(len(inputs.images), len(columns), squeeze=False)
        for column, (name, counts, pictures) in enumerate(columns):
            label_panel(axes[0, column], name, counts)
            for row, picture in enumerate(pictures):
                panel = axes[row, column]
                top = 255 if picture.dtype == np.uint8 else 1
                panel.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
                panel.spines[:].set_visible(False)
                panel.set_xticks([])
                panel.set_yticks([])
                if column == 0:
                    panel.set_ylabel(inputs.labels[row])
    return figure


def _size(pictures: Sequence[NDArray[Any]]) -> str:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        return "several sizes"
    ((height, width),) = sizes
    return f"{width} x {height} px"
