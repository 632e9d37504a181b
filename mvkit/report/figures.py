"""Figures as files; the format follows from the suffix.

Figures are drawn without pyplot, so that nothing of a user's own figures or settings changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.report.figures_extrapolation import draw_extrapolation
from mvkit.report.figures_layers import draw_layers
from mvkit.report.figures_scores import draw_scores
from mvkit.report.figures_style import FigureLabels, labels_of, save_figure

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.scoring.extrapolation import Extrapolation

__all__ = ["FigureLabels", "extrapolation_figure", "labels_of", "layers_figure", "scores_figure"]


def scores_figure(
    choices: Mapping[str, pd.DataFrame],
    path: Path,
    *,
    ceiling: pd.DataFrame | None = None,
    labels: FigureLabels | None = None,
) -> Path:
    """Save bars of models by area, see :func:`~mvkit.report.figures_scores.draw_scores`.

    Raises
    ------
    UsageError
        If the suffix names no format, there is nothing to draw, or models' layers were chosen differently.
    """
    return save_figure(draw_scores(choices, ceiling, labels=labels), path)


def layers_figure(summary: pd.DataFrame, path: Path, *, labels: FigureLabels | None = None) -> Path:
    """Save scores along the layers of a model, see :func:`~mvkit.report.figures_layers.draw_layers`.

    Raises
    ------
    UsageError
        If the suffix names no format, or there is nothing to draw.
    """
    return save_figure(draw_layers(summary, labels=labels), path)


def extrapolation_figure(
    extrapolation: Extrapolation, path: Path, *, labels: FigureLabels | None = None
) -> Path:
    """Save a ceiling by size, see :func:`~mvkit.report.figures_extrapolation.draw_extrapolation`.

    Raises
    ------
    UsageError
        If the suffix names no format, or there is nothing to draw.
    """
    return save_figure(draw_extrapolation(extrapolation, labels=labels), path)
