"""``mvkit score``: noise-corrected predictivity of models' layers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import (
    DEVICE_HELP,
    MACHINE,
    OUTPUT,
    PROTOCOL,
    HomeOption,
    JsonOption,
    SelectionPreset,
    check_network,
    complete_areas,
    complete_datasets,
    complete_models,
    complete_recipes,
    help_epilog,
    home_path,
    note,
    plain_table,
    print_json,
    print_line,
    print_renderable,
    print_width,
    progress_bar,
    split_commas,
)
from mvkit.errors import MvkitError, UsageError
from mvkit.files import check_output_folder, describe_error

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mvkit.pipeline.request import ScoreRequest
    from mvkit.pipeline.score import ShardReport


#: The end of ``mvkit score --help``.
EPILOG = help_epilog(
    "mvkit score gabor --dataset simulated --splits 2 --halves 10",
    "mvkit score alexnet_bn_ir gabor --areas VISp,VISl --recipe honest --out scores",
    "mvkit score pixels --map ridge --set ridge_alpha=cv --set selection.min_reliability=.3",
    learn_more="docs/reference/recipes.md: the protocol, and every key of a scoring recipe",
)


class MapName(StrEnum):
    """How features are compared with responses."""

    PLS = "pls"
    RIDGE = "ridge"
    ONE_TO_ONE = "one-to-one"
    LASSO = "lasso"
    ELASTICNET = "elasticnet"
    RSA = "rsa"
    CKA = "cka"


class MeasureKind(StrEnum):
    """What the score of a unit is."""

    CORRECTED = "corrected"
    FEVE = "feve"
    SINGLE_TRIAL = "single-trial"
    TO_AVERAGE = "to-average"


class CeilingKind(StrEnum):
    """What predicts an animal: the units of all others pooled, or those of each other one."""

    NONE = "none"
    HOLDOUT = "holdout"
    PAIRWISE = "pairwise"


_SUBJECT = "What is scored"

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Released models, architectures, baselines (pixels, gabor), training runs' checkpoints, or "
        "external models: torchvision:NAME, timm:NAME, package.module:FUNCTION, FILE.py:FUNCTION.",
        autocompletion=complete_models,
        rich_help_panel=_SUBJECT,
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="PATTERN",
        help="Layer names or globs (features.*), with commas between, for every model; NAME=a+b joins "
        "layers. All: mvkit list layers MODEL.",
        show_default="published, the list of the paper's code; of vgg16_encoder its five pools",
        rich_help_panel=_SUBJECT,
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME|FILE",
        help="neuropixels, calcium, simulated, or the path of a neural file.",
        show_default="neuropixels if fetched, else simulated",
        autocompletion=complete_datasets,
        rich_help_panel=_SUBJECT,
    ),
]
TaskFolder = Annotated[
    Path | None,
    typer.Option(
        "--task",
        metavar="FOLDER",
        help="Read labels out of layers in place of predicting neurons: a folder of images per class, or "
        "with labels.csv. Takes --layers, --weights, --seed, --input-size, --out, --json and --device only.",
        rich_help_panel=_SUBJECT,
    ),
]
Areas = Annotated[
    list[str] | None,
    typer.Option(
        "--areas",
        "-a",
        metavar="AREA,...",
        help="VISp,VISl,...; may also be repeated.",
        show_default="all",
        autocompletion=complete_areas,
        rich_help_panel=_SUBJECT,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="released, random, DEFAULT (torchvision, timm), the path of a checkpoint, PATH:KEY for the "
        "weights under a key in it (dino.pth:teacher), or ENTRY=PATH.",
        rich_help_panel=_SUBJECT,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Seed of random weights.",
        show_default="0, or a training run's own",
        rich_help_panel=_SUBJECT,
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="PX",
        min=1,
        help="Side of the networks' input.",
        show_default="as trained",
        rich_help_panel=_SUBJECT,
    ),
]

Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="honest, quick, ... (all: mvkit list recipes), or the path of a scoring recipe.",
        show_default="paper",
        autocompletion=complete_recipes("score/"),
        rich_help_panel=PROTOCOL,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe: selection.min_reliability=.3, correction=attenuation, ...",
        rich_help_panel=PROTOCOL,
    ),
]
Map = Annotated[
    MapName | None,
    typer.Option(
        "--map",
        help="How features are compared with responses.",
        show_default="the recipe's: pls",
        rich_help_panel=PROTOCOL,
    ),
]
Splits = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=100_000,
        help="Image splits.",
        show_default="the recipe's: 10",
        rich_help_panel=PROTOCOL,
    ),
]
Halves = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=100_000,
        help="Trial halves of every image split.",
        show_default="the recipe's: 100",
        rich_help_panel=PROTOCOL,
    ),
]
Ceiling = Annotated[
    CeilingKind | None,
    typer.Option(
        help="Consistency between animals: from the others pooled, or from each other one.",
        show_default="none",
        rich_help_panel=PROTOCOL,
    ),
]
MeasureOption = Annotated[
    MeasureKind | None,
    typer.Option(
        "--measure",
        help="Correlation corrected for noise; or, of maps fitted to all trials: fraction of explainable "
        "variance explained, correlation with single trials, with their average.",
        show_default="the recipe's: corrected",
        rich_help_panel=PROTOCOL,
    ),
]
Selection = Annotated[
    SelectionPreset | None,
    typer.Option(
        help="Units of reliability 0.5 (code) or 0.3 (paper, perhaps a misreading: not checked against the "
        "paper's text), or all (none).",
        show_default="code",
        rich_help_panel=PROTOCOL,
    ),
]

Against = Annotated[
    list[Path] | None,
    typer.Option(
        "--against",
        metavar="DIR",
        help="Compare with the models of a folder of --out (or of DIR/MODEL), of the same protocol.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Write CSV, Parquet and summary.json here.", rich_help_panel=OUTPUT
    ),
]
Figure = Annotated[
    Path | None,
    typer.Option(
        "--figure",
        metavar="FILE",
        help="Draw scores, intervals and ceiling; .svg, .png or .pdf.",
        rich_help_panel=OUTPUT,
    ),
]
Details = Annotated[
    bool,
    typer.Option(
        "--details", help="Print every layer, pair of models and reason, too.", rich_help_panel=OUTPUT
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="Write models x areas with intervals as a table for a paper; .tex (booktabs) or .md.",
        rich_help_panel=OUTPUT,
    ),
]
PoolAs = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Pool the MODELs, runs of other seeds, as one model; its intervals hold the training variance.",
        rich_help_panel=_SUBJECT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only say what the run needs: layers, fits, memory, disk; exit 1 if it does not fit.",
        rich_help_panel=OUTPUT,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write one page with ranking, figures, tables of layers and units, and the protocol.",
        rich_help_panel=OUTPUT,
    ),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        help="Worker processes.",
        show_default="all cores",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"{DEVICE_HELP} For features; a GPU that is named also makes the fits of --map pls with "
        "--set pls_stopping=converged.",
        rich_help_panel=MACHINE,
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run the fits on the dask cluster of this scheduler: tcp://HOST:8786.",
        rich_help_panel=MACHINE,
    ),
]
ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Score part I of N into the cache only; the same command without --shard then finishes.",
        rich_help_panel=MACHINE,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither use cached results nor cache new ones.", rich_help_panel=MACHINE
    ),
]


def command(
    context: typer.Context,
    models: Models = None,
    pool_as: PoolAs = None,
    layers: Layers = None,
    dataset: Dataset = None,
    areas: Areas = None,
    task: TaskFolder = None,
    weights: Weights = "released",
    seed: Seed = None,
    input_size: InputSize = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    map_: Map = None,
    splits: Splits = None,
    halves: Halves = None,
    measure: MeasureOption = None,
    ceiling: Ceiling = None,
    selection: Selection = None,
    out: Out = None,
    figure: Figure = None,
    table: TableFile = None,
    details: Details = False,
    against: Against = None,
    report: Report = None,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
    jobs: Jobs = None,
    device: Device = "auto",
    dask: Dask = None,
    shard: ShardPart = None,
    no_cache: NoCache = False,
    home: HomeOption = None,
) -> None:
    """Score how well models' layers predict mouse neurons, corrected for noise; compare several models."""
    from mvkit.machine import Resources

    # All of it before torch is imported, which takes seconds.
    if not models:
        raise UsageError("no MODEL to score: name at least one; all: mvkit list models")
    check_network(models, weights=weights, layers=_names("--layers", layers), home=home, device=device)
    if out is not None:
        check_output_folder(out)
    from mvkit.pipeline.listing import check_areas
    from mvkit.pipeline.request import OPTIONS, ScoreRequest, check_request, parse_shard

    request = ScoreRequest(
        models=tuple(models or ()),
        layers=_names("--layers", layers),
        dataset=dataset,
        areas=_names("--areas", areas),
        weights=weights,
        pool_as=pool_as,
        seed=seed,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        options={
            "mapping": map_,
            "n_splits": splits,
            "n_halves": halves,
            "measure": measure,
            "ceiling": ceiling,
            "selection.preset": selection,
            "input.size_px": input_size,
        },
        against=tuple(against or ()),
        resources=Resources(
            n_jobs=jobs,
            device=device,
            home=home_path(home),
            cache=not no_cache,
            dask=dask,
        ),
    )
    if task is not None:
        unused = {
            "--as": pool_as,
            "--dataset": dataset,
            "--areas": areas,
            "--recipe": recipe,
            **{f"--set {key}": True for key in request.overrides if not key.startswith(_TASK_KEYS)},
            **{OPTIONS[key]: value for key, value in request.options.items() if key != "input.size_px"},
            "--figure": figure,
            "--table": table,
            "--details": details,
            "--against": against,
            "--report": report,
            "--dry-run": dry_run,
            "--jobs": jobs,
            "--dask": dask,
            "--shard": shard,
            "--no-cache": no_cache,
        }
        _score_task(request, task, unused, out=out, as_json=as_json)
        return
    check_request(request)
    check_areas(dataset, request.areas, home=home_path(home))
    part = None if shard is None else parse_shard(shard)
    if part is not None:
        whole = {"--dry-run": dry_run, "--no-cache": no_cache, "--out": out, "--figure": figure}
        _check_alone(f"--shard {part}", {**whole, "--table": table, "--report": report, "--against": against})
    _check_files(figure, table, report)
    if dry_run:
        print_estimate(request, as_json=as_json)
        return
    from mvkit.pipeline.score import run_score, run_shard

    if part is not None:
        scored = run_shard(request, part, note=note, progress=progress_bar)
        _print_shard(scored, _without_shard(context.obj or ()), as_json=as_json)
        return
    run = run_score(request, note=note, progress=progress_bar)
    from mvkit.report import run_document, run_page, save_run, save_table, written_lines
    from mvkit.report.figures import draw_run
    from mvkit.report.html import write_report

    line = shlex.join(["mvkit", *(context.obj or ())])
    files, problems = _write_files(
        (
            (out, lambda path: save_run(run, path)),
            (figure, lambda path: draw_run(run, path)),
            (table, lambda path: [save_table(run, path)]),
            (report, lambda path: [write_report(run, path, command=line)]),
        )
    )
    if as_json:
        print_json({**run_document(run, files), **({"errors": problems} if problems else {})})
    else:
        _print_parts((*run_page(run, width=print_width(), details=details), *written_lines(files)))
    for problem in problems:
        note(f"error: {problem}")
    if problems:
        raise typer.Exit(1)


#: Keys of ``--set`` that a task knows.
_TASK_KEYS = ("input.", "machine.")


def _score_task(
    request: ScoreRequest, folder: Path, unused: dict[str, object], *, out: Path | None, as_json: bool
) -> None:
    """Read the labels of a task out of the layers, and print a row per layer."""
    from mvkit.pipeline.transfer import run_transfer, save_transfer, transfer_document
    from mvkit.scoring.transfer import TransferSettings

    if given := [option for option, value in unused.items() if value]:
        raise UsageError(f"--task reads labels out of images, with no neurons: leave {', '.join(given)} out")
    settings = TransferSettings()
    scores = run_transfer(request, folder, settings, progress=progress_bar)
    files = [] if out is None else save_transfer(scores, out)
    if as_json:
        print_json({**transfer_document(folder, settings, scores), "files": [str(file) for file in files]})
        return
    print_line(
        f"{folder}: {scores[0].n_images} images; linear readout of at most {settings.n_components} principal "
        f"components, mean and standard deviation over {settings.n_folds} parts of the images"
    )
    table = plain_table("model", "layer", "task", "measure", "score>", "sd>", "chance>")
    for score in scores:
        numbers = (f"{value:.3f}" for value in (score.score, score.sd, score.chance))
        table.add_row(score.model, score.layer, score.task, score.measure, *numbers)
    print_renderable(table)
    for file in files:
        print_line(f"wrote {file}")


def _write_files(
    writers: Iterable[tuple[Path | None, Callable[[Path], list[Path]]]],
) -> tuple[list[Path], list[str]]:
    """Write what was asked for; return the files and the errors, so that scores are printed all the same."""
    files: list[Path] = []
    problems: list[str] = []
    for path, write in writers:
        if path is None:
            continue
        try:
            files += write(path)
        except OSError as error:
            problems.append(describe_error(error))
        except MvkitError as error:
            problems.append(str(error))
    return files, problems


def _names(option: str, values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names given to an option; None if it was not given."""
    names = split_commas(values)
    if values is not None and names is None:
        raise UsageError(f"{option} names nothing: give names with commas between, or leave it out for all")
    return names


def _check_alone(name: str, others: dict[str, object]) -> None:
    """Refuse options that a shard has no use for."""
    given = [option for option, value in others.items() if value]
    if given:
        raise UsageError(
            f"{name}: leave {', '.join(given)} out: a shard only scores its part into the cache\n"
            "when all shards are done, the same command without --shard finds the scores there and finishes, "
            "with --out, --figure and --against"
        )


def _check_files(figure: Path | None, table: Path | None, report: Path | None) -> None:
    """Check files that a run is to write before hours of work end in them."""
    if figure is not None:
        from mvkit.report.figures.style import check_figure

        check_figure(figure)
    if table is not None:
        from mvkit.report.files import check_table

        check_table(table)
    if report is not None:
        from mvkit.report.html import check_report

        check_report(report)


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


#: For terminals; in files and pipes a sentence stays one line, which can be searched for.
_wrapped = partial(fill, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _print_parts(parts: Iterable[str | RenderableType]) -> None:
    for part in parts:
        if isinstance(part, str):
            print_line(_wrapped(part, print_width()) if sys.stdout.isatty() else part)
        else:
            print_renderable(part)


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
