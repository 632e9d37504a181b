"""The columns of every table that a scoring run writes: name, unit, meaning."""

from __future__ import annotations

from dataclasses import dataclass

from mvkit.scoring.correlation import DROPPED_COLUMNS, REASONS


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    name
        As in the file.
    unit
        ``text``, ``count``, ``correlation`` (no unit, 1 = perfect), ``fraction``, ``probability``, ``number``
        (of an animal, a unit) or ``true/false``.
    meaning
        What it holds.
    """

    name: str
    unit: str
    meaning: str


_CORRELATION, _COUNT, _TEXT, _NUMBER = "correlation", "count", "text", "number"

_SOURCE = (
    Column("model", _TEXT, "Name in all results; random weights are part of it: `net (random, seed 0)`."),
    Column("weights", _TEXT, "Where the weights come from: an address, a file, a training run, a seed."),
    Column("dataset", _TEXT, "Name of the recordings."),
)
_LAYER = Column("layer", _TEXT, "Layer of the network.")
_AREA = Column("area", _TEXT, "Visual area; `all` is every area pooled.")
_SPECIMEN = Column("specimen", _NUMBER, "Animal.")
_UNIT_ID = Column("unit_id", _NUMBER, "Neuron or cell; -1 is a whole population (RSA, CKA).")
_UNIT_KEYS = (_LAYER, Column("area", _TEXT, "Visual area."), _SPECIMEN, _UNIT_ID)
_FOLDS = (
    Column("score_even_splits", _CORRELATION, "`score` from the even image splits alone, if there are two."),
    Column("score_odd_splits", _CORRELATION, "`score` from the odd image splits alone, if there are two."),
)
_MEDIAN = (
    Column("median", _CORRELATION, "Median of `score` over units."),
    Column("sem", _CORRELATION, "Standard error of the mean over units (no interval of the median)."),
    Column("low", _CORRELATION, "Lower end of the interval of the median over animals and units."),
    Column("high", _CORRELATION, "Upper end of it."),
    Column("n_units", _COUNT, "Units with a score."),
    Column("n_animals", _COUNT, "Animals with such a unit."),
    Column("n_nan", _COUNT, "Units without a score."),
    Column("reason", _TEXT, "Why there is no interval, or empty: `2 animals: no interval`."),
)
_CHOICE = Column("choice", _TEXT, "How the layer was chosen: `paper` (on the test images) or `held-out`.")
_SCORES = (
    *_SOURCE,
    *_UNIT_KEYS,
    Column("score", _CORRELATION, "Correlation corrected for noise, mean over splits and halves."),
    Column("raw_correlation", _CORRELATION, "The same, not corrected (r_cross)."),
    Column("map_reliability", _CORRELATION, "Of the predictions from two halves, Spearman-Brown corrected."),
    Column("response_reliability", _CORRELATION, "Of the responses of two halves, Spearman-Brown corrected."),
    Column("map_correlation", _CORRELATION, "Between the predictions from two halves (r_map)."),
    Column("response_correlation", _CORRELATION, "Between the responses of two halves (r_target)."),
    Column(
        "explainable_variance",
        "fraction",
        "Of the variance of single trials, what images explain; only with another `--measure`.",
    ),
    Column("halves_used", _COUNT, "Image splits x trial halves that `score` is a mean of."),
    Column("halves_dropped", _COUNT, "All others."),
    Column("reason", _TEXT, "Why `score` is missing, a short key, or empty."),
    Column("detail", _TEXT, "What there is to say beyond the reason, or empty."),
    *(
        Column(column, _COUNT, f"Of these dropped for: {REASONS[reason]}.")
        for reason, column in DROPPED_COLUMNS.items()
    ),
    *_FOLDS,
)
_CEILING = (
    *_SCORES[:-2],
    Column("n_sources", _COUNT, "Other animals that the unit was predicted from."),
    Column("n_source_units", _COUNT, "Their units."),
    *_FOLDS,
)
_SUMMARY = (*_SOURCE, _LAYER, _AREA, *_MEDIAN)

#: File of ``mvkit score --out`` -> its columns.
TABLES: dict[str, tuple[Column, ...]] = {
    "scores.csv": _SCORES,
    "scores.parquet": _SCORES,
    "networks.parquet": (
        *_SOURCE,
        *_UNIT_KEYS,
        Column("network", _NUMBER, "Position among the networks pooled with `--as`, from 0."),
        Column("score", _CORRELATION, "As in `scores.csv`, of this network."),
        *_FOLDS,
    ),
    "summary.csv": _SUMMARY,
    "best_layers.csv": (
        *_SOURCE,
        _AREA,
        Column("layer", _TEXT, "The layer chosen for the area; `a / b` where two sets of splits differ."),
        _CHOICE,
        *_MEDIAN,
    ),
    "fractions.csv": (
        *_SOURCE,
        _AREA,
        _CHOICE,
        Column("fraction", "fraction", "Median score over median ceiling of the same units."),
        Column("low", "fraction", "Lower end of its interval over animals and units."),
        Column("high", "fraction", "Upper end of it."),
        Column("n_units", _COUNT, "Units with a score and a ceiling."),
        Column("n_animals", _COUNT, "Their animals."),
        Column("reason", _TEXT, "Why there is no fraction or interval, or empty."),
    ),
    "two_way.csv": (
        *_SOURCE,
        _AREA,
        Column("layer", _TEXT, "The layer that predicts the area best."),
        Column("n_animals", _COUNT, "Animals of the area."),
        Column(
            "from_model", _CORRELATION, "Median score of an animal's units from the model, mean over animals."
        ),
        Column(
            "to_model", _CORRELATION, "Median score of the model's features from an animal, the same mean."
        ),
        Column("between", _CORRELATION, "Scores between animals, both ways, the same mean."),
        Column("difference", _CORRELATION, "Mean of the two before it, less `between`; mean over animals."),
        Column("low", _CORRELATION, "Lower end of its interval over animals (Student's)."),
        Column("high", _CORRELATION, "Upper end of it."),
        Column("verdict", _TEXT, "`nearer than`, `as near as` or `further than another animal`; or why not."),
    ),
    "comparison.csv": (
        _AREA,
        _CHOICE,
        Column("first", _TEXT, "Name of a model."),
        Column("second", _TEXT, "Name of another."),
        Column("difference", _CORRELATION, "Median over units of (score of first - score of second)."),
        Column("low", _CORRELATION, "Lower end of its interval over animals and units."),
        Column("high", _CORRELATION, "Upper end of it."),
        Column("p", "probability", "Two-sided, of `the median difference is 0`."),
        Column("p_holm", "probability", "Corrected by Holm for all pairs of models in the area."),
        Column("resolved", "true/false", "Whether `p_holm` is below 1 - confidence."),
        Column("n_units", _COUNT, "Units with a score from both."),
        Column("n_animals", _COUNT, "Their animals."),
        Column("n_left_out", _COUNT, "Units without a score from one of the two."),
        Column("reason", _TEXT, "Why there is no interval, or empty."),
        Column("first_weights", _TEXT, "Where the weights of the first come from."),
        Column("second_weights", _TEXT, "Where those of the second come from."),
        Column("dataset", _TEXT, "Name of the recordings."),
    ),
    "units.csv": (
        Column("dataset", _TEXT, "Name of the recordings."),
        Column("area", _TEXT, "Visual area."),
        _SPECIMEN,
        Column("unit_id", _NUMBER, "Neuron or cell."),
        Column(
            "excluded",
            _TEXT,
            "Why the selection left it out: `reliability`, `running` (modulated by it), `no_responsive_bin`, "
            "`few_units` (of its recording); empty = scored.",
        ),
    ),
    "ceiling/scores.csv": _CEILING,
    "ceiling/scores.parquet": _CEILING,
    "ceiling/summary.csv": _SUMMARY,
    "ceiling/extrapolation.csv": (
        Column("dataset", _TEXT, "Name of the recordings."),
        Column("area", _TEXT, "Visual area."),
        Column("size", _COUNT, "Units of the source animals, or images, that the ceiling is made from."),
        *(column for column in _MEDIAN if column.name != "sem"),
    ),
}


def columns_markdown() -> str:
    """Return all tables as Markdown, a heading and a table for each set of equal columns."""
    files: dict[tuple[Column, ...], list[str]] = {}
    for name, columns in TABLES.items():
        files.setdefault(columns, []).append(f"`{name}`")
    parts = []
    for columns, names in files.items():
        rows = [f"| `{column.name}` | {column.unit} | {column.meaning} |" for column in columns]
        parts.append(
            "\n".join([f"### {', '.join(names)}", "", "| column | unit | meaning |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"
