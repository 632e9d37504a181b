"""``mvkit score``: noise-corrected predictivity of models' layers."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from textwrap import fill

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

#: For terminals; in files and pipes a sentence stays one line, which can be searched for.
_wrapped = partial(fill, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def command(
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
    keep_features: option.KeepFeatures = False,
    backend: option.Backend = "local",
    scheduler: option.Scheduler = None,
    shard: option.ShardPart = None,
    merge: option.Merge = None,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    grey: Grey = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score how well models' layers predict mouse neurons, corrected for noise; compare several models."""
    from mvkit.cli.lists import split_commas
    from mvkit.cli.score_dry_run import tell_needs
    from mvkit.report import run_document, run_page, save_run, written_lines
    from mvkit.report.run_figures import check_figure, draw_run
    from mvkit.resources import Resources
    from mvkit.score_merge import merge_shards
    from mvkit.score_request import ScoreRequest
    from mvkit.score_run import run_score
    from mvkit.score_shards import run_shard, shard_wanted

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
            keep_features=keep_features,
            backend=backend,
            scheduler=scheduler,
        ),
    )
    if dry_run:
        tell_needs(request, parts=shard or merge, as_json=as_json)
        return
    if shard is not None:
        wanted, folder = shard_wanted(shard, out=out, merge=merge, figure=figure)
        report = run_shard(request, wanted, folder, remark=note, progress=progress_bar)
        if as_json:
            print_json(report.to_json())
        for line in () if as_json else report.lines():
            print_line(line)
        return
    if merge is not None:
        run = merge_shards(request, merge, remark=note, progress=progress_bar)
        out = out or merge
    else:
        run = run_score(request, remark=note, progress=progress_bar)
    files = save_run(run, out) if out is not None else []
    files += draw_run(run, figure) if figure is not None else []
    if as_json:
        print_json(run_document(run, files))
        return
    for part in (*run_page(run, width=print_width()), *written_lines(files)):
        if isinstance(part, str):
            print_line(_wrapped(part, print_width()) if sys.stdout.isatty() else part)
        else:
            print_renderable(part)
