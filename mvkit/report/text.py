"""What a scoring run prints, from top to bottom: sentences around the tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvkit.files import plain, shorten
from mvkit.report.tables import (
    CHOICES,
    best_layer_table,
    best_layer_title,
    comparison_tables,
    counted_words,
    extrapolation_lines,
    extrapolation_table,
    has_units,
    is_pooled,
    missing_intervals,
    no_choice,
    noun,
    overview_table,
    overview_title,
    percent,
    score_table,
    with_interval,
)
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.results import ALL_AREAS
from mvkit.scoring.settings import DEFAULT_SETTINGS

if TYPE_CHECKING:
    import pandas
    import pandas as pd
    from rich.console import RenderableType

    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation


@dataclass(frozen=True)
class ScoreRun:
    """What a scoring run yields.

    Attributes
    ----------
    models
        Model as the user named it -> its scores, in the order given; at least one.
    table2
        Model -> the paper's value for it and what differs from how that was measured; None where the paper's
        Table 2 has no such model.
    ceiling
        Consistency between animals, one "layer", or None if none was asked for.
    fractions
        Model -> scores as fractions of the ceiling, see
        :func:`mvkit.scoring.comparison.fraction_of_ceiling`; empty without a ceiling.
    earlier
        Folder -> saved scores that were compared with.
    comparison
        Models with one another and with earlier scores, or None if there is nothing to compare.
    extrapolation
        The ceiling over numbers of units or stimuli, or None if it was not asked for.
    """

    models: Mapping[str, Scores]
    table2: Mapping[str, Table2Comparison | None]
    ceiling: Scores | None = None
    fractions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    earlier: Mapping[str, Scores] = field(default_factory=dict)
    comparison: Comparison | None = None
    extrapolation: Extrapolation | None = None

    @property
    def scores(self) -> Scores:
        """The scores of the first model."""
        return next(iter(self.models.values()))


#: One cause as :func:`mvkit.scoring.correlation.explain` writes it: its name, an image, a count.
_CAUSE = re.compile(r"(?P<name>.+?)(?: \(image \d+\))? in (?P<count>\d+|all)")
_END = re.compile(r"(?: of \d+)? halvings$")


def dropped_halvings(scores: Scores) -> str:
    """Say how many halvings gave no corrected value, and why; "" if every one did.

    Averaging corrected halvings leaves these out, which favours the luckier halvings of unreliable units;
    correcting averages keeps those of negative reliability, and the sentence says so.
    """
    dropped = scores.columns["halves_dropped"]
    total = int(dropped.sum()) + int(scores.columns["halves_used"].sum())
    count = int(dropped.sum())
    if not count:
        return ""
    causes = count_causes(zip(scores.columns["dropped_because"], dropped, strict=True))
    named = ", ".join(f"{name} {number}" for name, number in causes.most_common())
    share = f"{count} of {total} ({100 * count / total:.1f} %: {named})"
    if scores.settings.estimator == "corrected-mean":
        return f"halvings that alone could not be corrected: {share}; corrected-mean corrects means instead"
    return f"halvings dropped: {share}"


def count_causes(explanations: Iterable[tuple[object, object]]) -> Counter[str]:
    """Add up causes over rows.

    Parameters
    ----------
    explanations
        (``dropped_because``, ``halves_dropped``) of every row.

    Returns
    -------
    Counter
        Cause -> halvings. A text that does not name counts stands for all halvings of its row.
    """
    causes: Counter[str] = Counter()
    for because, dropped in explanations:
        number = int(str(dropped))
        if not number:
            continue
        parts = [_CAUSE.fullmatch(part) for part in _END.sub("", str(because)).split(", ")]
        for part in parts:
            if part is None:
                causes[str(because) or "not recorded"] += number
                break
            causes[part["name"]] += number if part["count"] == "all" else int(part["count"])
    return causes


#: Hex digits of a digest that are shown; enough to tell protocols apart by eye.
DIGITS = 12

#: Characters of a setting that are shown.
_LONGEST = 30


def protocol_lines(scores: Scores) -> tuple[str, ...]:
    """Say by which protocol scores were made.

    Returns
    -------
    tuple of str
        Digest, mapping, splits, halvings and correction; what differs from the paper's protocol; seeds.
    """
    settings = scores.settings
    return (
        f"protocol {scores.digest()[:DIGITS]}: {described_mapping(settings)}, {_amount(settings)}, "
        f"{_correction(settings)}",
        _differences(settings),
        f"seeds: splits {settings.split_seed}, halvings {settings.halves_seed}, "
        f"resampling {settings.resampling_seed}",
    )


def described_mapping(settings: ScoreSettings) -> str:
    """Name the mapping with the settings that belong to it."""
    details = {
        "pls": f"{settings.n_components} components",
        "ridge": "alpha by cross-validation"
        if settings.ridge_alpha == "cv"
        else f"alpha {settings.ridge_alpha:g}",
        "lasso": f"penalty {settings.penalty:g}",
        "elasticnet": f"penalty {settings.penalty:g}, l1 ratio {settings.l1_ratio:g}",
        "rsa": f"RDMs compared by {settings.rsa_comparison}",
        "cka": "debiased" if settings.cka_debiased else "biased",
    }
    title = MAPPINGS[settings.mapping].title
    return f"{title} ({details[settings.mapping]})" if settings.mapping in details else title


def _amount(settings: ScoreSettings) -> str:
    halvings = f"{settings.n_halves} trial halvings"
    if settings.compares_all_images:
        return f"all images, {halvings}"
    return f"{settings.n_splits} image splits x {halvings}"


def _correction(settings: ScoreSettings) -> str:
    if settings.correction == "none":
        return "not corrected for noise"
    return f"corrected for noise ({settings.correction}, {settings.estimator})"


def _differences(settings: ScoreSettings) -> str:
    """Name every setting that numbers depend on and that differs from the paper's."""
    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    changed = [
        f"{name} {shorten(here[name], _LONGEST)} ({shorten(paper[name], _LONGEST)})"
        for name in here
        if here[name] != paper[name]
    ]
    if not changed:
        return "settings as in the paper"
    return f"settings that differ from the paper's (in brackets): {', '.join(changed)}"


#: Reasons that are printed; the rest is in the table of units.
MOST_REASONS = 4

#: A corrected correlation this large says that the correction failed, not that the model is good.
EXTREME = 2.0


@dataclass(frozen=True)
class Headline:
    """Lines to print around the tables.

    Attributes
    ----------
    above
        What was scored and how.
    below
        The result over all areas, the paper's value, and what has no score and why.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]


def headline(scores: Scores, *, table2: Table2Comparison | None = None) -> Headline:
    """Put a score run into words.

    Parameters
    ----------
    scores
        The scores.
    table2
        The paper's Table 2 value of this model and what differs from it, or None where the paper has none.
    """
    context = scores.context
    table = scores.table()
    above = (
        f"{context.get('model', 'features')} on {describe_dataset(context)}: {_size(scores, table)}, "
        f"selection {describe_selection(context)}",
        *_network(context),
        *protocol_lines(scores),
    )
    below = [_overall(scores)]
    if table2 is not None:
        below.append(table2.line())
    skipped = context.get("skipped_areas")
    if isinstance(skipped, Mapping):
        below += [f"skipped {area}: {why}" for area, why in skipped.items()]
    below += [*_unscored(scores, table), *_extreme(scores, table)]
    return Headline(above, tuple(below))


def _network(context: Mapping[str, object]) -> tuple[str, ...]:
    """Say which checkpoint was scored and how large its images were."""
    network = context.get("network")
    return (f"{context.get('model')}: {network}",) if network else ()


def describe_dataset(context: Mapping[str, object]) -> str:
    """Name the dataset; simulated recordings are called so, in capitals, wherever they appear."""
    name = str(context.get("dataset", "recordings"))
    return "the SIMULATED dataset" if name == "simulated" else name


def describe_selection(context: Mapping[str, object]) -> str:
    """Name the selection of units in a word or two."""
    selection = context.get("selection")
    if not isinstance(selection, Mapping):
        return "as given"
    name = str(selection.get("name", "custom"))
    if name == "paper" and selection.get("applied", True):
        return f"{name} (not checked against the paper's text)"
    return name if selection.get("applied", True) else f"{name} ({selection.get('note', 'not applied')})"


def _size(scores: Scores, table: pandas.DataFrame) -> str:
    rows = table.drop_duplicates(["area", "specimen", "unit_id"])
    if has_units(scores):
        return f"{len(rows)} units, {rows['specimen'].nunique()} animals"
    if is_pooled(scores):
        return f"{len(rows)} areas, each with the units of all its animals pooled"
    return (
        f"{len(rows)} populations (the units of an animal in an area), {rows['specimen'].nunique()} animals"
    )


def _overall(scores: Scores) -> str:
    best = scores.headline_layers().to_dict("records")
    row = next(row for row in best if row["area"] == ALL_AREAS)
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    only = len(scores.layers) == 1
    layers = "one layer" if only else f"each with its best layer, {CHOICES[scores.settings.layer_choice]}"
    units = has_units(scores)
    if is_pooled(scores):
        about = f"{row['n_units']} {noun(scores)}"
    else:
        over = "animals and units" if units else "animals"
        interval = f"{percent(scores.settings.confidence)} interval over {over}; " if "[" in value else ""
        about = f"{interval}{counted_words(row, units=units)}"
    return f"all areas, {layers}: median {value} ({about})"


def _pairs(scores: Scores) -> str:
    return "unit-layer pairs" if has_units(scores) else "population-layer pairs"


def _extreme(scores: Scores, table: pandas.DataFrame) -> list[str]:
    """Say which scores cannot be correlations: they make the s.e.m. meaningless, but hardly move a median."""
    beyond = table[table["score"].abs() > EXTREME]
    if beyond.empty:
        return []
    rows = len(beyond.drop_duplicates(["area", "specimen", "unit_id"]))
    of = f" (units: {rows})" if has_units(scores) else ""
    return [
        f"scores beyond ±{EXTREME:g}: {len(beyond)} of {len(table)} {_pairs(scores)}{of}; "
        "in some halvings a reliability near 0 divides them. The medians hold, the s.e.m. does not"
    ]


def _unscored(scores: Scores, table: pandas.DataFrame) -> list[str]:
    missing = table[table["score"].isna()]
    lines = []
    if len(missing):
        counts = missing["reason"].value_counts()
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.iloc[:MOST_REASONS].items())
        if len(counts) > MOST_REASONS:
            reasons += f"; other reasons, see the column 'reason': {counts.iloc[MOST_REASONS:].sum()}"
        lines.append(f"without a score: {len(missing)} of {len(table)} {_pairs(scores)} ({reasons})")
    return [*lines, *filter(None, [dropped_halvings(scores)])]


#: Differences that the line names; all of them are in the structured data.
_SHOWN = 3


@dataclass(frozen=True)
class Table2Difference:
    """One thing that was done otherwise than for the paper's Table 2.

    Attributes
    ----------
    of
        ``dataset``, ``weights``, ``selection``, ``areas``, ``layers``, ``preprocessing`` or a setting's name.
    here, paper
        What it was here and for the table, as plain values.
    words
        The same in a few words.
    """

    of: str
    here: object
    paper: object
    words: str

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {"of": self.of, "here": plain(self.here), "paper": plain(self.paper), "words": self.words}


@dataclass(frozen=True)
class Table2Comparison:
    """A value of the paper's Table 2 and the median that stands beside it, comparable or not.

    Attributes
    ----------
    row, dataset
        Which value.
    value
        The paper's: median noise-corrected predictivity over the units of all areas, each area with the layer
        that is best on the test images.
    here
        The same median of the scores, see :meth:`mvkit.scoring.Scores.best_layers`; NaN without any score.
    differences
        What differs from the paper's way, weightiest first; the values may be compared if nothing does.
    """

    row: str
    dataset: str
    value: float
    here: float
    differences: tuple[Table2Difference, ...] = ()

    @property
    def is_comparable(self) -> bool:
        """Whether the two values were measured in the same way."""
        return not self.differences

    def line(self) -> str:
        """Quote the value, or say why it may not be compared."""
        if self.is_comparable:
            return (
                f"the paper's Table 2 has {self.value:.3f} for {self.row} on {self.dataset}; here "
                f"{self.here:.3f}, as there over the units of all areas, best layers {CHOICES['paper']}"
            )
        words = [difference.words for difference in self.differences]
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return f"the paper's Table 2 ({self.value:.3f}) is not comparable: {', '.join(words[:_SHOWN])}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {
            "row": self.row,
            "dataset": self.dataset,
            "value": self.value,
            "here": plain(self.here),
            "comparable": self.is_comparable,
            "differences": [difference.to_json() for difference in self.differences],
        }


#: Columns that a table of six areas needs with each s.e.m. beside its median.
_WIDE = 125


def run_page(run: ScoreRun, *, width: int) -> Iterator[str | RenderableType]:
    """Yield the lines and tables of a run in the order of printing; text is to be printed as a line.

    The headline's choice of layers comes first, the other one after it, each in a table of its own.

    Parameters
    ----------
    run
        The run.
    width
        Columns of the terminal.
    """
    several = len(run.models) > 1
    protocol = protocol_lines(run.scores)
    if several:
        yield from (*protocol, "")
    for name, scores in run.models.items():
        words = headline(scores, table2=run.table2.get(name))
        # Of several models the protocol is the same, and stands above them all.
        yield from words.above[: -len(protocol)] if several else words.above
        yield ""
        yield from _tables(run, name, scores, narrow=width < _WIDE)
        yield from (*words.below, "")
    if run.ceiling is not None:
        yield from _ceiling_words(run.ceiling)
        yield ""
    if run.comparison is not None:
        yield from (_title(overview_title(run)), overview_table(run), "")
        for title, table in comparison_tables(run.comparison, units=has_units(run.scores)).items():
            yield from (_title(title), table, "")
    if run.extrapolation is not None:
        settings = run.extrapolation.settings
        yield _title(f"ceiling ({settings.ceiling}) over the number of {run.extrapolation.over}")
        yield extrapolation_table(run.extrapolation)
        yield from (*extrapolation_lines(run.extrapolation), "")


def _tables(run: ScoreRun, name: str, scores: Scores, *, narrow: bool) -> Iterator[str | RenderableType]:
    yield score_table(scores, ceiling=run.ceiling, narrow=narrow)
    yield ""
    first = scores.settings.layer_choice
    both = (first, "held-out" if first == "paper" else "paper")
    for choice in both[:1] if len(scores.layers) == 1 else both:
        why = no_choice(scores, choice)
        if why:
            yield from (f"no best layers {CHOICES[choice]}: {why}", "")
            continue
        yield _title(best_layer_title(scores, choice))
        yield best_layer_table(scores, choice, run.fractions.get(name))
        yield from (*missing_intervals(scores, choice), "")


def _ceiling_words(ceiling: Scores) -> Iterator[str]:
    row = ceiling.best_layers().to_dict("records")[-1]
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    yield (
        f"ceiling between animals ({ceiling.layers[0]}, {described_mapping(ceiling.settings)}), all areas: "
        f"median {value} ({counted_words(row, units=has_units(ceiling))})"
    )
    yield from missing_intervals(ceiling, "paper")
    yield from filter(None, [dropped_halvings(ceiling)])


def _title(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")
