"""What a scoring run prints, from top to bottom: sentences around the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

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
    matrix_title,
    missing_intervals,
    no_choice,
    ranked,
    ranking_table,
    ranking_title,
    score_table,
    two_way_table,
    verdict_lines,
    verdict_matrix,
    with_interval,
)
from mvkit.scoring.correlation import DROPPED_COLUMNS, REASONS, UNMAPPED
from mvkit.scoring.measures import MEASURES
from mvkit.scoring.settings import DEFAULT_SETTINGS

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from mvkit.neural.selection import SelectionOutcome
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation
    from mvkit.scoring.two_way import TwoWay


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
    two_way
        Label -> two-way comparison with the animals; empty if it was not asked for.
    notes
        Sentences for the top of the page, such as how earlier scores are compared.
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
    two_way: Mapping[str, TwoWay] = field(default_factory=dict)
    selection: SelectionOutcome | None = None
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> Scores:
        """The scores of the first model."""
        return next(iter(self.models.values()))


def run_page(run: ScoreRun, *, width: int, details: bool = False) -> Iterator[str | RenderableType]:
    """Yield the lines and tables of a run in the order of printing; text is to be printed as a line.

    First what was scored and how, with warnings; then the models by rank and a matrix of verdicts, or the
    best layer of each area of a single model; then what else there is to say of the results.

    Parameters
    ----------
    run
        The run.
    width
        Columns of the terminal.
    details
        Whether to add every layer, the other choice of layers, every pair of models, reasons and seeds.
    """
    several = len(run.models) + len(run.earlier) > 1
    yield title_line(run.scores, f"{len(run.models)} models" if len(run.models) > 1 else None)
    yield from selection_lines(run.selection, run.scores)
    yield from _checkpoint_lines(run)
    yield protocol_line(run.scores)
    yield from run.notes
    yield from warning_lines(run)
    yield ""
    if several:
        yield from (_bold(ranking_title(run)), ranking_table(run, width=width), "")
        yield from _verdicts(run, width=width)
    else:
        yield from _single_model(run)
    yield from _remarks(run)
    if run.extrapolation is not None:
        yield f"ceiling ({run.extrapolation.settings.ceiling}) over the number of {run.extrapolation.over}"
        yield from (*extrapolation_lines(run.extrapolation), "")
    for name, compared in run.two_way.items():
        yield _bold(f"{name} and animals, both ways")
        yield from (two_way_table(compared), "")
    if details:
        yield from _details(run)
    elif several or len(run.scores.layers) > 1:
        pairs = ", pairs" if several else ""
        yield f"every layer{pairs} and reason: --details, or files of --out DIR"


def _checkpoint_lines(run: ScoreRun) -> Iterator[str]:
    """Say of a single model what it is, and of training runs which checkpoint was scored."""
    for name, scores in run.models.items():
        network = scores.context.get("network")
        trained = str(scores.context.get("weights_source", "")).startswith("mvkit train")
        if network and len(run.models) == 1:
            yield str(network)
        elif network and trained:
            yield f"{name}: {network}"
        if len(run.models) == 1:
            yield from joined_lines(scores)


def joined_lines(scores: Scores) -> Iterator[str]:
    """Say what joined layers are made of."""
    joined = scores.context.get("joined_layers")
    if isinstance(joined, Mapping):
        parts = "; ".join(f"{name} = {' + '.join(map(str, of))}" for name, of in joined.items())
        yield f"joined layers: {parts}"


def _verdicts(run: ScoreRun, *, width: int) -> Iterator[str | RenderableType]:
    if run.comparison is None:
        return
    order = [name for name in ranked(run) if name in run.comparison.models]
    if len(order) == 2:
        yield from (*verdict_lines(run, run.comparison), "")
    else:
        yield _bold(matrix_title(run.comparison))
        yield from (verdict_matrix(run.comparison, order, width=width), "")


def _single_model(run: ScoreRun) -> Iterator[str | RenderableType]:
    name, scores = next(iter(run.models.items()))
    yield from _best_layers(run, name, scores, scores.settings.layer_choice)


def _best_layers(run: ScoreRun, name: str, scores: Scores, choice: str) -> Iterator[str | RenderableType]:
    """Yield the table of the layers chosen for a model's areas, or why there is none."""
    why = no_choice(scores, choice)
    if why:
        yield from (f"no best layers {CHOICES[choice]}: {why}", "")
        return
    yield _bold(best_layer_title(scores, choice))
    yield best_layer_table(scores, choice, run.fractions.get(name), run.ceiling)
    yield from (*missing_intervals(scores, choice), "")


def _remarks(run: ScoreRun) -> Iterator[str]:
    """Yield what there is to say of the results, and an empty line if there is anything."""
    lines = []
    skipped = run.scores.context.get("skipped_areas")
    if isinstance(skipped, Mapping):
        lines += [f"skipped {area}: {why}" for area, why in skipped.items()]
    if len(run.models) == 1:
        quoted = next(iter(run.table2.values()), None)
        # Of other recordings nobody expects the paper's value.
        if quoted is not None and "dataset" not in [difference.of for difference in quoted.differences]:
            lines.append(quoted.line())
        lines += filter(None, [_unscored(run.scores)])
    else:
        lines += [one.line() for one in run.table2.values() if one is not None and one.is_comparable]
        missing = {name: int(np.isnan(scores.columns["score"]).sum()) for name, scores in run.models.items()}
        if any(missing.values()):
            counts = ", ".join(f"{name} {count}" for name, count in missing.items() if count)
            lines.append(f"without a score, of all {_pairs(run.scores)}: {counts} (reasons: --details)")
    if run.ceiling is not None and len(run.models) + len(run.earlier) == 1:
        row = run.ceiling.best_layers().to_dict("records")[-1]
        value = with_interval(row["median"], row["low"], row["high"]) or "none"
        counts = count_words(row, units=has_units(run.ceiling))
        lines.append(f"ceiling between animals ({run.ceiling.layers[0]}): median {value} ({counts})")
    if lines:
        yield from (*lines, "")


def _details(run: ScoreRun) -> Iterator[str | RenderableType]:
    yield from (*protocol_details(run.scores), "")
    for name, scores in run.models.items():
        yield _bold(name)
        network = scores.context.get("network")
        if network and len(run.models) > 1:
            yield str(network)
        if len(run.models) > 1:
            yield from joined_lines(scores)
        networks = scores.context.get("networks")
        if isinstance(networks, list):
            yield from _network_lines(scores, networks)
        yield from (score_table(scores, ceiling=run.ceiling), "")
        first = scores.settings.layer_choice
        both = (first, "held-out" if first == "paper" else "paper")
        for choice in both[:1] if len(scores.layers) == 1 else both:
            yield from _best_layers(run, name, scores, choice)
        lines = result_lines(scores, table2=run.table2.get(name))
        yield from (*lines, *([""] if lines else []))
    if run.ceiling is not None:
        lines = [*missing_intervals(run.ceiling, "paper"), *filter(None, [dropped_line(run.ceiling)])]
        yield from (*(f"ceiling: {line}" for line in lines), *([""] if lines else []))
    if run.comparison is not None:
        for title, table in comparison_tables(run.comparison, units=has_units(run.scores)).items():
            yield from (_bold(title), table, "")
    if run.extrapolation is not None:
        settings = run.extrapolation.settings
        yield _bold(f"ceiling ({settings.ceiling}) over the number of {run.extrapolation.over}")
        yield from (extrapolation_table(run.extrapolation), "")


def _network_lines(scores: Scores, networks: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Say which networks were pooled, with the median of each over all areas, from the layers of the pool."""
    chosen = [units for units in scores.chosen_units().values() if units.layer]
    of_each = np.concatenate([units.networks for units in chosen], axis=1) if chosen else None
    for index, network in enumerate(networks):
        words = f"network {index + 1}: {network.get('name')}"
        if of_each is not None:
            words += f", median {np.nanmedian(of_each[index]):.3f}"
        yield words


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")


def title_line(scores: Scores, what: str | None = None) -> str:
    """Return what was scored: model, recordings, numbers of units and animals.

    Simulated recordings are called so, in capitals.

    Parameters
    ----------
    scores
        Of a model.
    what
        Instead of the model's name.
    """
    model = what or scores.context.get("model", "features")
    return f"{model} on {_dataset(scores)}: {_size(scores)}"


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


def selection_lines(selection: SelectionOutcome | None, scores: Scores) -> list[str]:
    """Say which selection kept how many units, and why not the others."""
    context = scores.context.get("selection")
    if not isinstance(context, Mapping):
        return []
    name = f"selection {context.get('name', 'custom')}"
    if context.get("name") == "paper":
        name += " (not checked against the paper's text)"
    note = str(context.get("note") or "")
    if note:
        return [f"{name}: {note}"]
    if selection is None or selection.n_kept == selection.n_units:
        return [f"{name}: every unit"]
    causes = []
    for reason, (n_units, n_recordings) in selection.excluded().items():
        words = f"{count_noun(n_units, 'unit')} "
        if reason in ("few_units", "no_responsive_bin"):
            words += f"in {count_noun(n_recordings, 'recording')} "
        causes.append(words + selection.words(reason))
    units = f"{selection.n_kept:,} of {count_noun(selection.n_units, 'unit')}"
    animals = f"{selection.n_animals_kept} of {count_noun(selection.n_animals, 'animal')}"
    return [f"{name} kept {units}, {animals}; left out: {'; '.join(causes)}. All units: --selection none"]


#: Hex digits of a digest that are shown; enough to tell protocols apart by eye.
DIGITS = 12
#: Characters of a setting that are shown.
_LONGEST = 30


def protocol_line(scores: Scores) -> str:
    """Say by which protocol scores were made, and what is not as in the paper."""
    settings = scores.settings
    amount = "all images" if settings.compares_all_images else count_noun(settings.n_splits, "image split")
    by = ", " if settings.compares_all_images else " x "
    halves = trial_words(settings)
    correction = (
        MEASURES[settings.measure]
        if settings.measure != "corrected"
        else "not corrected for noise"
        if settings.correction == "none"
        else f"corrected for noise ({settings.correction}, {settings.estimator})"
    )
    here, paper = settings.protocol(), DEFAULT_SETTINGS.protocol()
    changed = [
        f"{name} {shorten(here[name], _LONGEST)} (paper: {shorten(paper[name], _LONGEST)})"
        for name in here
        if here[name] != paper[name]
    ]
    differs = f"differs from the paper's: {', '.join(changed)}" if changed else "settings as in the paper"
    return f"{mapping_words(settings)}, {amount}{by}{halves}, {correction}; {differs}"


def protocol_details(scores: Scores) -> tuple[str, ...]:
    """Return the digest of the protocol and the seeds."""
    settings = scores.settings
    return (
        f"protocol {scores.digest()[:DIGITS]}; seeds: splits {settings.split_seed}, halves "
        f"{settings.halves_seed}, resampling {settings.resampling_seed}",
    )


def trial_words(settings: ScoreSettings) -> str:
    """Say how the trials are used."""
    if settings.measure != "corrected":
        return "all trials"
    return f"{settings.n_halves} trial {'half' if settings.n_halves == 1 else 'halves'}"


def mapping_words(settings: ScoreSettings) -> str:
    """Name the mapping with the settings that belong to it."""
    # Maps need numba, and much that is told of results does without.
    from mvkit.scoring.maps import MAPPINGS

    details = {
        "pls": (
            "components by cross-validation"
            if settings.n_components == "cv"
            else f"{settings.n_components} components"
        )
        + (", a map for each unit" if settings.pls_targets == "unit" else ""),
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


def warning_lines(run: ScoreRun) -> list[str]:
    """Return what a reader must know before the numbers: many dropped split halves, medians that may be 0."""
    lines = []
    shares = {name: dropped_share(scores) for name, scores in run.models.items()}
    many = {name: share for name, share in shares.items() if share > MANY_DROPPED}
    several = len(run.models) > 1
    if many:
        counts = ", ".join(
            f"{f'{name} ' if several else ''}{100 * share:.0f} %" for name, share in many.items()
        )
        lines.append(
            f"warning: {counts} of the split halves were dropped, because their noise could not be "
            "corrected; the others are the luckier ones, and the scores too high. --recipe honest drops none"
        )
    unclear = {}
    for name, scores in run.models.items():
        row = scores.headline_layers().to_dict("records")[-1]
        if row["low"] <= 0.0 <= row["high"]:
            unclear[name] = with_interval(row["median"], row["low"], row["high"])
    if unclear:
        values = ", ".join(f"{name} {value}" for name, value in unclear.items())
        lines.append(
            f"warning: the interval holds 0, so these data do not show that there is any prediction: {values}"
        )
    return lines


def dropped_share(scores: Scores) -> float:
    """Return the share of split halves that were dropped where that makes medians too high; else 0."""
    n_used, n_dropped = _halves(scores)
    if scores.settings.corrects_means or not n_dropped:
        return 0.0
    return n_dropped / (n_used + n_dropped)


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
        f"{REASONS[reason]} {count:,}"
        for reason, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    )
    total = n_used + n_dropped
    share = f"{n_dropped:,} of {total:,} ({100 * n_dropped / total:.1f} %: {causes})"
    if scores.settings.corrects_means:
        return f"halves that alone could not be corrected: {share}; corrected-mean corrects means instead"
    return f"{'halves' if scores.settings.measure == 'corrected' else 'splits'} dropped: {share}"


def _halves(scores: Scores) -> tuple[int, int]:
    """Return how many split halves, over all units and layers, were used and dropped."""
    return int(scores.columns["halves_used"].sum()), int(scores.columns["halves_dropped"].sum())


#: A corrected correlation this large says that the correction failed, not that the model is good.
EXTREME = 2.0


def result_lines(scores: Scores, *, table2: Table2Comparison | None = None) -> list[str]:
    """Return the paper's value, what has no score and why, and scores that cannot be correlations.

    Parameters
    ----------
    scores
        The scores.
    table2
        The paper's Table 2 value of this model and what differs from it, or None where the paper has none.
    """
    quoted = "" if table2 is None else table2.line()
    return [*filter(None, (quoted, _unscored(scores), dropped_line(scores), _extreme(scores)))]


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
    reasons = "; ".join(f"{words}: {count:,}" for words, count in sorted(counts.items(), key=lambda c: -c[1]))
    return f"without a score: {len(missing):,} of {len(table):,} {_pairs(scores)} ({reasons})"


def _extreme(scores: Scores) -> str:
    """Count scores that cannot be correlations: they hardly move a median."""
    table = scores.table()
    beyond = table[table["score"].abs() > EXTREME]
    if beyond.empty:
        return ""
    n_units = len(beyond.drop_duplicates(["area", "specimen", "unit_id"]))
    units = f" (units: {n_units})" if has_units(scores) else ""
    return (
        f"scores beyond ±{EXTREME:g}: {len(beyond):,} of {len(table):,} {_pairs(scores)}{units}; "
        "in some halves a reliability near 0 divides them. Medians hold, means would not"
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
