"""``mvkit score``: noise-corrected predictivity of models' layers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import typer

from mvkit.cli import score_options as option
from mvkit.cli.console import (
    HomeOption,
    JsonOption,
    note,
    print_json,
    print_line,
    print_renderable,
    print_width,
    progress_bar,
)
from mvkit.cli.input_options import Grey, InputSize, Mean, Std, input_options
from mvkit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mvkit.score_request import ScoreRequest
    from mvkit.score_run import ShardReport

#: For terminals; in files and pipes a sentence stays one line, which can be searched for.
_wrapped = partial(fill, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def command(
    context: typer.Context,
    models: option.Models = None,
    layers: option.Layers = None,
    dataset: option.Dataset = None,
    areas: option.Areas = None,
    out: option.Out = None,
    figure: option.Figure = None,
    dry_run: option.DryRun = False,
    weights: option.Weights = "released",
    seed: option.Seed = None,
    recipe: option.Recipe = None,
    overrides: option.Overrides = None,
    map_: option.Map = None,
    splits: option.Splits = None,
    halves: option.Halves = None,
    halving: option.Halving = None,
    correlation: option.Correlation = None,
    correction: option.Correction = None,
    estimator: option.Estimator = None,
    pls_stopping: option.PlsStopping = None,
    parity: option.Parity = False,
    ceiling: option.Ceiling = None,
    equal_units: option.EqualUnits = False,
    extrapolate: option.Extrapolate = None,
    layer_choice: option.LayerChoice = None,
    against: option.Against = None,
    selection: option.Selection = "code",
    min_reliability: option.MinReliability = None,
    min_median_reliability: option.MinMedianReliability = None,
    run_p: option.RunP = None,
    min_units: option.MinUnits = None,
    time_window: option.TimeWindow = None,
    jobs: option.Jobs = None,
    device: option.Device = "cpu",
    batch_size: option.BatchSize = None,
    scratch: option.Scratch = None,
    no_cache: option.NoCache = False,
    dask: option.Dask = None,
    shard: option.ShardPart = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    grey: Grey = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score how well models' layers predict mouse neurons, corrected for noise; compare several models."""
    from mvkit.cli.lists import split_commas
    from mvkit.machine import Resources
    from mvkit.report import run_document, run_page, save_run, written_lines
    from mvkit.report.run_figures import check_figure, draw_run
    from mvkit.score_request import ScoreRequest
    from mvkit.score_run import parse_shard, run_score, run_shard

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
        report = run_shard(request, part, remark=note, progress=progress_bar)
        _print_shard(report, _without_shard(context.obj or ()), as_json=as_json)
        return
    run = run_score(request, remark=note, progress=progress_bar)
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
    from mvkit.score_estimate import estimate_page, estimate_run

    estimate = estimate_run(request, remark=note)
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
