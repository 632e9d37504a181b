"""What a scoring run prints, from top to bottom: sentences around the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvkit.files import plain, shorten
from mvkit.report.tables import (
    CHOICES,
    best_layer_table,
    best_layer_title,
    comparison_tables,
    count_noun,
    count_words,
    extrapolation_lines,
    extrapolation_table,
    has_units,
    is_pooled,
    missing_intervals,
    no_choice,
    overview_table,
    overview_title,
    percent,
    score_table,
    with_interval,
)
from mvkit.scoring.correlation import DROPPED_COLUMNS, REASONS, UNMAPPED
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import DEFAULT_SETTINGS

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from mvkit.neural.selection import SelectionOutcome
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation


@dataclass(frozen=True)
class ScoreRun:
    """The results of a scoring run.

    Attributes
    ----------
    models
        Label of a model (``alexnet_bn_ir (random, seed 0)``) -> its scores, in the order given; at least one.
    table2
        Label -> the paper's value for the model and what differs from how that was measured; None where the
        paper's Table 2 has no such model.
    ceiling
        Consistency between animals, one "layer", or None if none was asked for.
    fractions
        Label -> scores as fractions of the ceiling, see
        :func:`mvkit.scoring.comparison.fraction_of_ceiling`; empty without a ceiling.
    earlier
        Folder -> saved scores that were compared with.
    comparison
        Models with one another and with earlier scores, or None if there is nothing to compare.
    extrapolation
        The ceiling over numbers of units or stimuli, or None if it was not asked for.
    selection
        Which units of the areas that were scored the selection kept, and why not the others; or None.
    """

    models: Mapping[str, Scores]
    table2: Mapping[str, Table2Comparison | None]
    ceiling: Scores | None = None
    fractions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    earlier: Mapping[str, Scores] = field(default_factory=dict)
    comparison: Comparison | None = None
    extrapolation: Extrapolation | None = None
    selection: SelectionOutcome | None = None

    @property
    def scores(self) -> Scores:
        """The scores of the first model."""
        return next(iter(self.models.values()))


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
    protocol, selected = protocol_lines(run.scores), selection_lines(run.selection)
    several = len(run.models) > 1
    if several:
        # The same for all models.
        yield f"{len(run.models)} models on {_dataset(run.scores)}"
        yield from (*selected, *protocol, "")
    for name, scores in run.models.items():
        yield title_line(scores)
        if not several:
            yield from selected
        network = scores.context.get("network")
        if network:
            yield str(network)
        if not several:
            yield from protocol
        yield ""
        warning = dropped_warning(scores)
        if warning:
            yield from (warning, "")
        yield from _tables(run, name, scores, narrow=width < _WIDE)
        yield from (*result_lines(scores, table2=run.table2.get(name)), "")
    if run.ceiling is not None:
        yield from (*_ceiling_lines(run.ceiling), "")
    if run.comparison is not None:
        yield from (_bold(overview_title(run)), overview_table(run), "")
        for title, table in comparison_tables(run.comparison, units=has_units(run.scores)).items():
            yield from (_bold(title), table, "")
    if run.extrapolation is not None:
        settings = run.extrapolation.settings
        yield _bold(f"ceiling ({settings.ceiling}) over the number of {run.extrapolation.over}")
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
        yield _bold(best_layer_title(scores, choice))
        yield best_layer_table(scores, choice, run.fractions.get(name))
        yield from (*missing_intervals(scores, choice), "")


def _ceiling_lines(ceiling: Scores) -> Iterator[str]:
    row = ceiling.best_layers().to_dict("records")[-1]
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    yield (
        f"ceiling between animals ({ceiling.layers[0]}, {mapping_words(ceiling.settings)}), all areas: "
        f"median {value} ({count_words(row, units=has_units(ceiling))})"
    )
    yield from missing_intervals(ceiling, "paper")
    yield from filter(None, [dropped_line(ceiling)])


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")


def title_line(scores: Scores) -> str:
    """Return what was scored: model, recordings, numbers of units and animals, selection.

    Simulated recordings are called so, in capitals.
    """
    return (
        f"{scores.context.get('model', 'features')} on {_dataset(scores)}: {_size(scores)}, "
        f"selection {_selection_name(scores.context)}"
    )


def _dataset(scores: Scores) -> str:
    name = str(scores.context.get("dataset", "recordings"))
    return "the SIMULATED dataset" if name == "simulated" else name


def _size(scores: Scores) -> str:
    rows = scores.table().drop_duplicates(["area", "specimen", "unit_id"])
    n_animals = rows["specimen"].nunique()
    if has_units(scores):
        return f"{count_noun(len(rows), 'unit')}, {count_noun(n_animals, 'animal')}"
    if is_pooled(scores):
        return f"{len(rows)} areas, each with the units of all its animals pooled"
    return f"{len(rows)} populations (the units of an animal in an area), {n_animals} animals"


def _selection_name(context: Mapping[str, object]) -> str:
    selection = context.get("selection")
    if not isinstance(selection, Mapping):
        return "as given"
    name = str(selection.get("name", "custom"))
    if not selection.get("applied", True):
        return f"{name} ({selection.get('note', 'not applied')})"
    return f"{name} (not checked against the paper's text)" if name == "paper" else name


def selection_lines(selection: SelectionOutcome | None) -> list[str]:
    """Say how many units the selection kept, and why not the others; nothing if it kept all of them."""
    if selection is None or selection.n_kept == selection.n_units:
        return []
    causes = []
    for reason, (n_units, n_recordings) in selection.excluded().items():
        words = f"{count_noun(n_units, 'unit')} "
        if reason in ("few_units", "no_responsive_bin"):
            words += f"in {count_noun(n_recordings, 'recording')} "
        causes.append(words + selection.words(reason))
    units = f"{selection.n_kept:,} of {count_noun(selection.n_units, 'unit')}"
    animals = f"{selection.n_animals_kept} of {count_noun(selection.n_animals, 'animal')}"
    return [f"kept {units}, {animals}: {'; '.join(causes)}. All units: --selection none"]


#: Hex digits of a digest that are shown; enough to tell protocols apart by eye.
DIGITS = 12
#: Characters of a setting that are shown.
_LONGEST = 30


def protocol_lines(scores: Scores) -> tuple[str, ...]:
    """Say by which protocol scores were made.

    Returns
    -------
    tuple of str
        Digest, mapping, image splits, trial halves and correction; what differs from the paper's protocol;
        seeds.
    """
    settings = scores.settings
    amount = "all images" if settings.compares_all_images else f"{settings.n_splits} image splits"
    by = ", " if settings.compares_all_images else " x "
    correction = (
        "not corrected for noise"
        if settings.correction == "none"
        else f"corrected for noise ({settings.correction}, {settings.estimator})"
    )
    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    changed = [
        f"{name} {shorten(here[name], _LONGEST)} ({shorten(paper[name], _LONGEST)})"
        for name in here
        if here[name] != paper[name]
    ]
    return (
        f"protocol {scores.digest()[:DIGITS]}: {mapping_words(settings)}, "
        f"{amount}{by}{settings.n_halves} trial halves, {correction}",
        f"settings that differ from the paper's (in brackets): {', '.join(changed)}"
        if changed
        else "settings as in the paper",
        f"seeds: splits {settings.split_seed}, halves {settings.halves_seed}, "
        f"resampling {settings.resampling_seed}",
    )


def mapping_words(settings: ScoreSettings) -> str:
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


#: Share of dropped halves above which a warning stands over the table.
MANY_DROPPED = 0.2


def dropped_warning(scores: Scores) -> str:
    """Return a warning if so many split halves were dropped that medians are too high; else ""."""
    n_used, n_dropped = _halves(scores)
    if scores.settings.estimator != "mean-of-corrected" or n_dropped <= MANY_DROPPED * (n_used + n_dropped):
        return ""
    return (
        f"warning: {100 * n_dropped / (n_used + n_dropped):.0f} % of the split halves were dropped, because "
        "their noise could not be corrected; the others are the luckier ones, and the scores too high. "
        "--recipe honest drops none"
    )


def dropped_line(scores: Scores) -> str:
    """Say how many split halves gave no corrected value, and why; "" if every one did.

    The mean of corrected values leaves these out, which favours the luckier halves of unreliable units;
    correcting means keeps those of negative reliability, and the sentence says so.
    """
    n_used, n_dropped = _halves(scores)
    if not n_dropped:
        return ""
    counts = {reason: int(scores.columns[column].sum()) for reason, column in DROPPED_COLUMNS.items()}
    causes = ", ".join(
        f"{REASONS[reason]} {count}"
        for reason, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    )
    total = n_used + n_dropped
    share = f"{n_dropped} of {total} ({100 * n_dropped / total:.1f} %: {causes})"
    if scores.settings.estimator == "corrected-mean":
        return f"halves that alone could not be corrected: {share}; corrected-mean corrects means instead"
    return f"halves dropped: {share}"


def _halves(scores: Scores) -> tuple[int, int]:
    """Return how many split halves, over all units and layers, were used and dropped."""
    return int(scores.columns["halves_used"].sum()), int(scores.columns["halves_dropped"].sum())


#: A corrected correlation this large says that the correction failed, not that the model is good.
EXTREME = 2.0


def result_lines(scores: Scores, *, table2: Table2Comparison | None = None) -> list[str]:
    """Return the result over all areas, the paper's value, and what has no score and why.

    Parameters
    ----------
    scores
        The scores.
    table2
        The paper's Table 2 value of this model and what differs from it, or None where the paper has none.
    """
    lines = [_overall(scores)]
    if table2 is not None:
        lines.append(table2.line())
    skipped = scores.context.get("skipped_areas")
    if isinstance(skipped, Mapping):
        lines += [f"skipped {area}: {why}" for area, why in skipped.items()]
    return [*lines, *filter(None, (_unscored(scores), dropped_line(scores), _extreme(scores)))]


def _overall(scores: Scores) -> str:
    row = scores.headline_layers().to_dict("records")[-1]
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    only = len(scores.layers) == 1
    layers = "one layer" if only else f"each with its best layer, {CHOICES[scores.settings.layer_choice]}"
    if is_pooled(scores):
        counts = f"{row['n_units']} pooled populations"
    else:
        units = has_units(scores)
        over = "animals and units" if units else "animals"
        interval = f"{percent(scores.settings.confidence)} interval over {over}; " if "[" in value else ""
        counts = f"{interval}{count_words(row, units=units)}"
    return f"all areas, {layers}: median {value} ({counts})"


def _unscored(scores: Scores) -> str:
    """Count the rows without a score by reason; "" if there are none."""
    table = scores.table()
    missing = table[table["score"].isna()]
    if missing.empty:
        return ""
    counts: dict[str, int] = {}
    for reason, detail in zip(missing["reason"], missing["detail"], strict=True):
        words = detail if reason == UNMAPPED else REASONS[reason]
        counts[words] = counts.get(words, 0) + 1
    reasons = "; ".join(f"{words}: {count}" for words, count in sorted(counts.items(), key=lambda c: -c[1]))
    return f"without a score: {len(missing)} of {len(table)} {_pairs(scores)} ({reasons})"


def _extreme(scores: Scores) -> str:
    """Count scores that cannot be correlations: they spoil the s.e.m., but hardly move a median."""
    table = scores.table()
    beyond = table[table["score"].abs() > EXTREME]
    if beyond.empty:
        return ""
    n_units = len(beyond.drop_duplicates(["area", "specimen", "unit_id"]))
    units = f" (units: {n_units})" if has_units(scores) else ""
    return (
        f"scores beyond ±{EXTREME:g}: {len(beyond)} of {len(table)} {_pairs(scores)}{units}; "
        "in some halves a reliability near 0 divides them. The medians hold, the s.e.m. does not"
    )


def _pairs(scores: Scores) -> str:
    return "unit-layer pairs" if has_units(scores) else "population-layer pairs"


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
