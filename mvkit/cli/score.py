"""``mvkit score``: noise-corrected predictivity of models' layers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    Grey,
    HomeOption,
    InputSize,
    JsonOption,
    Mean,
    Std,
    input_options,
    note,
    print_json,
    print_line,
    print_renderable,
    print_width,
    progress_bar,
)
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mvkit.pipeline.request import ScoreRequest
    from mvkit.pipeline.score import ShardReport


_PROTOCOL = "Protocol"
_RESULTS = "Ceiling, comparison, layers"
_SELECTION = "Selection of units"
_MACHINE = "Machine"
_SWEEPS = "Several machines"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Released models, architectures, baselines (pixels, gabor), training runs' checkpoints, or "
        "models from elsewhere: torchvision:NAME, timm:NAME, package.module:FUNCTION, FILE.py:FUNCTION.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="PATTERN",
        help="Layer names or globs, for every model, or published: the list of the paper's code. "
        "Default: the same list, but for vgg16_encoder its five pools.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="neuropixels, calcium, simulated, or the path of a neural file."),
]
Areas = Annotated[
    list[str] | None, typer.Option("--areas", "-a", metavar="AREA", help="VISp, VISl, ...; default: all.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Write CSV, Parquet and summary.json here."),
]
Figure = Annotated[
    Path | None,
    typer.Option("--figure", metavar="FILE", help="Draw scores, intervals and ceiling; .svg, .png or .pdf."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what the run needs: layers, fits, memory, disk; exit 1 if it does not fit.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="released, random, DEFAULT (torchvision, timm), the path of a checkpoint, or ENTRY=PATH."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of random weights; default: 0, or a training run's own.", show_default=False),
]

Recipe = Annotated[
    str | None,
    typer.Option(help="paper, honest, quick, or the path of a scoring recipe.", rich_help_panel=_PROTOCOL),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.", rich_help_panel=_PROTOCOL),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="NAME",
        help="pls (paper), ridge, one-to-one, lasso, elasticnet, rsa or cka.",
        rich_help_panel=_PROTOCOL,
    ),
]
Splits = Annotated[
    int | None, typer.Option(min=1, help="Image splits (paper: 10).", rich_help_panel=_PROTOCOL)
]
Halves = Annotated[
    int | None, typer.Option(min=1, help="Trial halvings (paper: 100).", rich_help_panel=_PROTOCOL)
]
Halving = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="split-half (paper), bootstrap, bootstrap-full-mean, subsample-half or "
        "subsample-half-replacement.",
        rich_help_panel=_PROTOCOL,
    ),
]
Correlation = Annotated[
    str | None, typer.Option(metavar="NAME", help="pearson (paper) or spearman.", rich_help_panel=_PROTOCOL)
]
Correction = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="spearman-brown-denominator (paper), spearman-brown-ratio, attenuation or none.",
        rich_help_panel=_PROTOCOL,
    ),
]
Estimator = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="mean-of-corrected (paper), or corrected-mean, which drops no halving.",
        rich_help_panel=_PROTOCOL,
    ),
]
PlsStopping = Annotated[
    str | None,
    typer.Option(help="reference, or converged (free of unit order).", rich_help_panel=_PROTOCOL),
]
Parity = Annotated[
    bool,
    typer.Option(
        "--parity", help="Keep the old arithmetic of two negative reliabilities.", rich_help_panel=_PROTOCOL
    ),
]

Ceiling = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Consistency between animals: holdout (the others pooled), pairwise or none.",
        rich_help_panel=_RESULTS,
    ),
]
EqualUnits = Annotated[
    bool,
    typer.Option(
        "--equal-units", help="Ceiling from equally many units of each source.", rich_help_panel=_RESULTS
    ),
]
Extrapolate = Annotated[
    str | None,
    typer.Option(
        metavar="OVER",
        help="Follow the ceiling over the number of units or stimuli.",
        rich_help_panel=_RESULTS,
    ),
]
LayerChoice = Annotated[
    str | None,
    typer.Option(
        "--layer-choice",
        metavar="NAME",
        help="Which best layers are the headline: paper (chosen on the test images) or held-out.",
        rich_help_panel=_RESULTS,
    ),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        "--against",
        metavar="DIR",
        help="Compare with scores saved by --out, of the same protocol.",
        rich_help_panel=_RESULTS,
    ),
]

Selection = Annotated[
    str,
    typer.Option(
        help="code (reliability 0.5), paper (0.3, perhaps a misreading: not checked against the paper's "
        "text), or none.",
        rich_help_panel=_SELECTION,
    ),
]
MinReliability = Annotated[
    float | None,
    typer.Option(help="Lowest split-half reliability of a unit.", rich_help_panel=_SELECTION),
]
MinMedianReliability = Annotated[
    float | None,
    typer.Option(help="Lowest median reliability of a time bin.", rich_help_panel=_SELECTION),
]
RunP = Annotated[
    float | None,
    typer.Option(help="Highest p of running modulation that drops a unit.", rich_help_panel=_SELECTION),
]
MinUnits = Annotated[
    str | None,
    typer.Option(help="Fewest units of an animal: q3, median, none or a number.", rich_help_panel=_SELECTION),
]
TimeWindow = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="FIRST LAST",
        help="Average these bins (centres, seconds after onset) and not the reliable ones.",
        rich_help_panel=_SELECTION,
    ),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Worker processes; default: all cores.", rich_help_panel=_MACHINE
    ),
]
Device = Annotated[
    str, typer.Option(help="Where features are extracted: cpu, cuda, ...", rich_help_panel=_MACHINE)
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Images per forward pass; default: by the size of the inputs.", rich_help_panel=_MACHINE
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where features lie that do not fit in memory; default: mvkit's cache.",
        rich_help_panel=_MACHINE,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither use cached results nor cache new ones.", rich_help_panel=_MACHINE
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run the fits on the dask cluster of this scheduler: tcp://HOST:8786.",
        rich_help_panel=_SWEEPS,
    ),
]
ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Score part I of N into the cache only; the same command without --shard then finishes.",
        rich_help_panel=_SWEEPS,
    ),
]


#: For terminals; in files and pipes a sentence stays one line, which can be searched for.
_wrapped = partial(fill, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def command(
    context: typer.Context,
    models: Models = None,
    layers: Layers = None,
    dataset: Dataset = None,
    areas: Areas = None,
    out: Out = None,
    figure: Figure = None,
    dry_run: DryRun = False,
    weights: Weights = "released",
    seed: Seed = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    map_: Map = None,
    splits: Splits = None,
    halves: Halves = None,
    halving: Halving = None,
    correlation: Correlation = None,
    correction: Correction = None,
    estimator: Estimator = None,
    pls_stopping: PlsStopping = None,
    parity: Parity = False,
    ceiling: Ceiling = None,
    equal_units: EqualUnits = False,
    extrapolate: Extrapolate = None,
    layer_choice: LayerChoice = None,
    against: Against = None,
    selection: Selection = "code",
    min_reliability: MinReliability = None,
    min_median_reliability: MinMedianReliability = None,
    run_p: RunP = None,
    min_units: MinUnits = None,
    time_window: TimeWindow = None,
    jobs: Jobs = None,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    scratch: Scratch = None,
    no_cache: NoCache = False,
    dask: Dask = None,
    shard: ShardPart = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    grey: Grey = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score how well models' layers predict mouse neurons, corrected for noise; compare several models."""
    from mvkit.cli.console import split_commas
    from mvkit.machine import Resources
    from mvkit.pipeline.request import ScoreRequest
    from mvkit.pipeline.score import parse_shard, run_score, run_shard
    from mvkit.report import run_document, run_page, save_run, written_lines
    from mvkit.report.figures import check_figure, draw_run

    part = None if shard is None else parse_shard(shard)
    if part is not None:
        whole = {"--dry-run": dry_run, "--no-cache": no_cache, "--out": out, "--figure": figure}
        _check_alone(f"--shard {part}", {**whole, "--against": against})
    if figure is not None:
        check_figure(figure)
    request = ScoreRequest(
        models=tuple(models or ()),
        layers=split_commas(layers),
        dataset=dataset,
        areas=split_commas(areas),
        weights=weights,
        seed=seed,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        settings={
            "mapping": map_,
            "n_splits": splits,
            "n_halves": halves,
            "halving": halving,
            "correlation": correlation,
            "correction": correction,
            "estimator": estimator,
            "pls_stopping": pls_stopping,
            "parity": parity or None,
            "ceiling": ceiling,
            "source_units": "equal" if equal_units else None,
            "layer_choice": layer_choice,
        },
        selection=selection,
        thresholds={
            # One option for both kinds of recording: per time bin, and of recordings without a time axis.
            "min_reliability": min_reliability,
            "min_mean_reliability": min_reliability,
            "min_median_reliability": min_median_reliability,
            "run_p": run_p,
            "min_units": min_units,
            "time_window_s": time_window,
        },
        against=tuple(against or ()),
        extrapolate=extrapolate,
        inputs=input_options(input_size, mean, std, grey=grey),
        resources=Resources(
            n_jobs=jobs,
            device=device,
            batch_size=batch_size,
            home=Path(home) if home else None,
            scratch=scratch,
            cache=not no_cache,
            dask=dask,
        ),
    )
    if dry_run:
        print_estimate(request, as_json=as_json)
        return
    if part is not None:
        report = run_shard(request, part, note=note, progress=progress_bar)
        _print_shard(report, _without_shard(context.obj or ()), as_json=as_json)
        return
    run = run_score(request, note=note, progress=progress_bar)
    files = save_run(run, out) if out is not None else []
    files += draw_run(run, figure) if figure is not None else []
    if as_json:
        print_json(run_document(run, files))
        return
    _print_parts((*run_page(run, width=print_width()), *written_lines(files)))


def print_estimate(request: ScoreRequest, *, as_json: bool) -> None:
    """Print what a run needs; leave with exit code 1 if it does not fit this machine.

    Parameters
    ----------
    request
        The run.
    as_json
        Whether to print one JSON document.
    """
    from mvkit.pipeline.estimate import estimate_page, estimate_run

    estimate = estimate_run(request, note=note)
    if as_json:
        print_json(estimate.to_json())
    else:
        _print_parts(estimate_page(estimate))
    if estimate.error:
        note(f"error: {estimate.error}")
        raise typer.Exit(1)


def _print_parts(parts: Iterable[str | RenderableType]) -> None:
    for part in parts:
        if isinstance(part, str):
            print_line(_wrapped(part, print_width()) if sys.stdout.isatty() else part)
        else:
            print_renderable(part)


def _check_alone(name: str, others: dict[str, object]) -> None:
    """Refuse options that a shard has no use for."""
    given = [option for option, value in others.items() if value]
    if given:
        raise UsageError(
            f"{name}: leave {', '.join(given)} out: a shard only scores its part into the cache\n"
            "when all shards are done, the same command without --shard finds the scores there and finishes, "
            "with --out, --figure and --against"
        )


def _print_shard(report: ShardReport, finish: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**report.to_json(), "finish": finish})
        return
    before = f", {report.n_cached_before} of them before" if report.n_cached_before else ""
    print_line(
        f"shard {report.shard}: {report.n_pairs_of_shard} of {report.n_pairs} pairs of layer and recording "
        f"are scored into the cache{before}"
    )
    if report.n_cached == report.n_pairs:
        print_line(f"every pair of the run is in the cache now; finish with: {finish}")
    else:
        state = f"{report.n_cached} of {report.n_pairs} pairs of the run are in the cache now"
        print_line(f"{state}; when all shards are done, finish with: {finish}")


def _without_shard(words: Sequence[str]) -> str:
    """Return a command line without ``--shard I/N``, as it can be given to a shell."""
    rest, others = iter(words), []
    for word in rest:
        if word == "--shard":
            next(rest)
        elif not word.startswith("--shard="):
            others.append(word)
    return shlex.join(["mvkit", *others])
