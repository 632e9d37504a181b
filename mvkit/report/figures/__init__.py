"""Figures fit for a journal: each function takes results and returns a matplotlib Figure.

Every ``draw_*`` takes ``style=FigureStyle(width_in=, titles=)``; :func:`save_figure` writes .png, .pdf or .svg.
"""

from mvkit.report.figures.areas import (
    BEYOND,
    FORMATS,
    FigureLabels,
    check_figure,
    check_suffix,
    draw_extrapolation,
    draw_layers,
    draw_run,
    draw_scores,
    labels_of,
    save_figure,
    shades,
)

# Signatures to come, for those who write `.plot()` methods (models: label -> Scores, all of one protocol):
#
#   FigureStyle(width_in: float | None = None, titles: bool = True)
#   COLUMN_WIDTHS_IN = {1: 3.5, 2: 7.2}
#   draw_areas(models, ceiling: Scores | None = None, *, choice: str | None = None, style=None)
#   draw_layers(models, *, style=None)
#   draw_units(models_of_two, *, choice=None, style=None)
#   draw_hierarchy(models, *, value: "score" | "depth" = "score", choice=None, style=None)
#   draw_extrapolation(extrapolation, *, dataset: str = "", style=None)
#   read_training_log(run_folder: Path) -> TrainingLog
#   draw_training(logs: Mapping[str, TrainingLog], *, style=None)
#   draw_reliability(units: mvkit.neural.selection.UnitFacts, *, dataset="", fraction=False, style=None)
#   draw_reliability_histogram(units: UnitFacts, threshold: float | None, *, dataset="", style=None)
#       (UnitFacts of a dataset's name or file: mvkit.neural.open.read_unit_facts(name_or_path, home=None))
#   draw_rdms(rdms: RDMPair, *, style=None)         RDMPair from mvkit.pipeline.plots.rdms_of(...)
#   draw_unit(unit: UnitResponses, *, style=None)   UnitResponses from mvkit.pipeline.plots.unit_responses(...)
#   save_figure(figure, path, *, dpi: int = 300, text: bool = False) -> Path
#   caption_of(figure) -> str      the small print below a figure, for its caption

__all__ = [
    "BEYOND",
    "FORMATS",
    "FigureLabels",
    "check_figure",
    "check_suffix",
    "draw_extrapolation",
    "draw_layers",
    "draw_run",
    "draw_scores",
    "labels_of",
    "save_figure",
    "shades",
]
