"""Figure of representational dissimilarities: of an area and of a layer, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.report.figures.style import (
    FONT_SIZE,
    SMALL,
    FigureStyle,
    count_range,
    figure_of,
    label_panel,
    layer_name,
    new_figure,
    own_look,
    recordings_name,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class RDMPair:
    """Representational dissimilarity matrices of an area and of a layer, for the same images.

    Attributes
    ----------
    area_rdm, layer_rdm
        float64 (n_images, n_images): 1 - Pearson's correlation of the patterns that two images evoke, over
        the units of the area (mean over trials) and over the features of the layer; NaN where a pattern
        does not vary.
    area, model, layer, dataset
        Names.
    n_units, n_animals
        Of the area.
    """

    area_rdm: NDArray[np.float64]
    layer_rdm: NDArray[np.float64]
    area: str
    model: str
    layer: str
    dataset: str
    n_units: int
    n_animals: int

    def similarity(self) -> float:
        """Return Pearson's correlation of the upper triangles, not corrected for noise; NaN if undefined."""
        rows, columns = np.triu_indices(len(self.area_rdm), k=1)
        first, second = self.area_rdm[rows, columns], self.layer_rdm[rows, columns]
        known = ~(np.isnan(first) | np.isnan(second))
        if known.sum() < 2 or np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
            return math.nan
        return float(np.corrcoef(first[known], second[known])[0, 1])

    def order(self) -> NDArray[np.int64]:
        """Return an order of the images in which those that the area finds alike are neighbours.

        Average linkage of the area's dissimilarities; images without one come last.
        """
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        known = np.flatnonzero(~np.isnan(np.diagonal(self.area_rdm)))
        rest = np.setdiff1d(np.arange(len(self.area_rdm)), known)
        if len(known) < 3:
            return np.concatenate([known, rest])
        distances = self.area_rdm[np.ix_(known, known)]
        distances = np.maximum(0.5 * (distances + distances.T), 0.0)
        np.fill_diagonal(distances, 0.0)
        leaves = leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))
        return np.concatenate([known[leaves], rest])


def draw_rdms(rdms: RDMPair, *, style: FigureStyle | None = None) -> Figure:
    """Draw the dissimilarity matrices of an area and a layer side by side, images in the same order.

    Parameters
    ----------
    rdms
        The two matrices.
    style
        Width and titles.

    Returns
    -------
    Figure
        Two pictures with a scale each. The title has their correlation.

    Raises
    ------
    DataError
        If the matrices are not of the same images, or there are fewer than three.
    """
    style = style or FigureStyle()
    if rdms.area_rdm.shape != rdms.layer_rdm.shape or len(rdms.area_rdm) < 3:
        raise DataError(
            f"RDMs of {len(rdms.area_rdm)} and {len(rdms.layer_rdm)} images: "
            "the same images are needed, at least 3"
        )
    r = rdms.similarity()
    order = rdms.order()
    similarity = "" if math.isnan(r) else f", r = {r:.2f}".replace("-", "\N{MINUS SIGN}")
    counts = f"{count_range([rdms.n_units], 'unit')}, {count_range([rdms.n_animals], 'animal')}"
    note = (
        "Dissimilarity: 1 \N{MINUS SIGN} Pearson's correlation of the patterns of two images; images in the "
        "same order, by clustering those of the area; r: correlation of the upper triangles, not corrected "
        "for noise"
    )
    with own_look():
        width = style.width(2)
        side = 0.5 * width - 0.75
        figure = new_figure(
            width,
            side + 0.42,
            title=f"RDMs of {rdms.area} and of {layer_name(rdms.model, rdms.layer)}{similarity}",
            note=note,
            style=style,
        )
        area_axes, layer_axes = figure.subplots(1, 2)
        _draw(area_axes, rdms.area_rdm[np.ix_(order, order)])
        label_panel(area_axes, f"{rdms.area} ({recordings_name(rdms.dataset)})", counts)
        _draw(layer_axes, rdms.layer_rdm[np.ix_(order, order)])
        name = wrap(figure, rdms.model, side, FONT_SIZE, bold=True)[0]
        label_panel(layer_axes, name, rdms.layer)
    return figure


def _draw(axes: Axes, matrix: NDArray[np.float64]) -> None:
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    known = off[~np.isnan(off)]
    # The diagonal is 0 and would take most of the scale.
    low, high = np.quantile(known, (0.01, 0.99)) if len(known) else (0.0, 1.0)
    options: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": high, "interpolation": "nearest"}
    image = axes.imshow(matrix, **options)
    bar = figure_of(axes).colorbar(image, ax=axes, fraction=0.046, pad=0.03, extend="both")
    bar.outline.set_visible(False)
    bar.set_label("dissimilarity", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{len(matrix)} images")
    axes.set_ylabel(f"{len(matrix)} images")
