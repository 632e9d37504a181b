"""``mvkit score``: noise-corrected predictivity of a model's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

_PROTOCOL = "Protocol"
_SELECTION = "Selection of units"
_MACHINE = "Machine"

#: Columns that a table of six areas needs with each s.e.m. beside its median.
_WIDE = 125


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Released model, architecture, baseline (pixels, gabor), or a training run's checkpoint."
        ),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers", "-l", metavar="PATTERN", help="Layer names or globs; default: the published list."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", "-d", help="neuropixels, calcium, simulated, or the path of a neural file."
        ),
    ] = None,
    areas: Annotated[
        list[str] | None, typer.Option("--areas", "-a", metavar="AREA", help="VISp, VISl, ...; default: all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write CSV, Parquet and summary.json here."),
    ] = None,
    weights: Annotated[str, typer.Option(help="released, random, or the path of a checkpoint.")] = "released",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of random weights; default: 0, or a training run's own.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Scoring recipe: a path or a packaged name.", rich_help_panel=_PROTOCOL)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.", rich_help_panel=_PROTOCOL),
    ] = None,
    splits: Annotated[
        int | None, typer.Option(min=1, help="Image splits (paper: 10).", rich_help_panel=_PROTOCOL)
    ] = None,
    halves: Annotated[
        int | None, typer.Option(min=1, help="Trial halvings (paper: 100).", rich_help_panel=_PROTOCOL)
    ] = None,
    pls_stopping: Annotated[
        str | None,
        typer.Option(help="reference, or converged (free of unit order).", rich_help_panel=_PROTOCOL),
    ] = None,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity",
            help="Keep the old arithmetic of two negative reliabilities.",
            rich_help_panel=_PROTOCOL,
        ),
    ] = False,
    selection: Annotated[
        str, typer.Option(help="code (reliability 0.5), paper (0.3), or none.", rich_help_panel=_SELECTION)
    ] = "code",
    min_reliability: Annotated[
        float | None,
        typer.Option(help="Lowest split-half reliability of a unit.", rich_help_panel=_SELECTION),
    ] = None,
    min_median_reliability: Annotated[
        float | None,
        typer.Option(help="Lowest median reliability of a time bin.", rich_help_panel=_SELECTION),
    ] = None,
    run_p: Annotated[
        float | None,
        typer.Option(help="Highest p of running modulation that drops a unit.", rich_help_panel=_SELECTION),
    ] = None,
    min_units: Annotated[
        str | None,
        typer.Option(
            help="Fewest units of an animal: q3, median, none or a number.", rich_help_panel=_SELECTION
        ),
    ] = None,
    time_window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="FIRST LAST",
            help="Average these bins (centres, seconds after onset) and not the reliable ones.",
            rich_help_panel=_SELECTION,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Worker processes; default: all cores.", rich_help_panel=_MACHINE
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where features are extracted.", rich_help_panel=_MACHINE)
    ] = "cpu",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score how well a model's layers predict mouse neurons, corrected for noise."""
    from mvkit.cli.lists import split_commas
    from mvkit.report import headline, score_table
    from mvkit.score_run import ScoreRequest, run_score
    from mvkit.scoring import save_scores

    request = ScoreRequest(
        model=model,
        layers=split_commas(layers),
        dataset=dataset,
        areas=split_commas(areas),
        weights=weights,
        seed=seed,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        settings={
            "n_splits": splits,
            "n_halves": halves,
            "pls_stopping": pls_stopping,
            "parity": parity or None,
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
        n_jobs=jobs,
        device=device,
        home=Path(home) if home else None,
    )
    with progress_bar("scoring") as progress:
        result = run_score(request, remark=note, progress=progress)
    files = save_scores(result.scores, out) if out is not None else []
    if as_json:
        print_json(
            {**result.scores.to_json(), "table2": result.table2, "files": [str(path) for path in files]}
        )
        return
    words = headline(result.scores, table2=result.table2)
    for line in words.above:
        print_line(line)
    print_line("")
    print_renderable(score_table(result.scores, narrow=print_width() < _WIDE))
    print_line("")
    for line in words.below:
        print_line(line)
    for path in files:
        print_line(f"wrote {path}")
