"""Figures fit for a journal: every ``draw_*`` takes results and returns a matplotlib Figure.

All of them take ``style=FigureStyle(width_in=, titles=)``; :func:`save_figure` writes .png, .pdf or .svg, and
:func:`caption_of` returns a figure's title and small print as sentences. Models go by their labels,
``{"gabor": scores, ...}``; :func:`read_runs` reads them from the folders of ``mvkit score --out``.
"""

from mvkit.report.figures.areas import draw_areas, draw_run
from mvkit.report.figures.ceilings import draw_extrapolation
from mvkit.report.figures.hierarchy import draw_hierarchy
from mvkit.report.figures.inputs import NetworkInputs, draw_inputs
from mvkit.report.figures.layers import draw_layers
from mvkit.report.figures.rdm import RDMPair, draw_rdms
from mvkit.report.figures.reliability import draw_reliability, draw_reliability_histogram
from mvkit.report.figures.runs import SavedRuns, read_runs
from mvkit.report.figures.style import (
    COLUMN_WIDTHS_IN,
    FORMATS,
    FigureStyle,
    Look,
    caption_of,
    check_figure,
    looks,
    save_figure,
)
from mvkit.report.figures.training import TrainingLog, draw_training, label_runs, read_training_log
from mvkit.report.figures.tuning import UnitResponses, draw_unit
from mvkit.report.figures.units import draw_units

__all__ = [
    "COLUMN_WIDTHS_IN",
    "FORMATS",
    "FigureStyle",
    "Look",
    "NetworkInputs",
    "RDMPair",
    "SavedRuns",
    "TrainingLog",
    "UnitResponses",
    "caption_of",
    "check_figure",
    "draw_areas",
    "draw_extrapolation",
    "draw_hierarchy",
    "draw_inputs",
    "draw_layers",
    "draw_rdms",
    "draw_reliability",
    "draw_reliability_histogram",
    "draw_run",
    "draw_training",
    "draw_unit",
    "draw_units",
    "label_runs",
    "looks",
    "read_runs",
    "read_training_log",
    "save_figure",
]
