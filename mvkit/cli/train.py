"""``mvkit train``: train a network as a recipe says."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mvkit.cli.console import (
    DEVICE_HELP,
    MACHINE,
    OUTPUT,
    Command,
    HomeOption,
    JsonOption,
    complete_recipes,
    help_epilog,
    home_path,
    note,
    print_json,
    print_line,
)
from mvkit.errors import UsageError
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from mvkit.pipeline.train import TrainReport, TrainRequest
    from mvkit.training.log import Pace
    from mvkit.training.plan import TrainPlan

_RUN = "Run"
_INTERRUPTED = 130
#: The end of ``mvkit train --help``.
EPILOG = help_epilog(
    "mvkit train demo --images images --set train.max_steps=20",
    "mvkit train dual_stream_ir --dry-run",
    "mvkit train dual_stream_ir --processes 4 --precision bf16",
    learn_more="docs/start/train.md: a first run; docs/howto/machines.md: several GPUs; mvkit recipe --help",
)
#: Options of other training programs, and the recipe's key for each.
_RECIPE_KEYS = {
    "--architecture": "model.architecture",
    "--arch": "model.architecture",
    "--model": "model.architecture",
    "--batch-size": "train.batch_size",
    "--epochs": "train.epochs",
    "--learning-rate": "optimiser.learning_rate",
    "--lr": "optimiser.learning_rate",
    "--max-steps": "train.max_steps",
    "--momentum": "optimiser.momentum",
    "--seed": "train.seed",
    "--weight-decay": "optimiser.weight_decay",
}


class PrecisionChoice(StrEnum):
    """Values of ``--precision``."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class TrainCommand(Command):
    """The command, with an answer to options that are keys of the recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line.

        Raises
        ------
        UsageError
            For an option such as ``--epochs``: names the recipe's key.
        """
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # which class of click's, or of Typer's own click, differs by version
            option = getattr(error, "option_name", None)
            if option not in _RECIPE_KEYS:
                raise
            raise UsageError(_key_advice(option, words)) from error


def _key_advice(option: str, words: Sequence[str]) -> str:
    """Return the message for an option that is a key of the recipe, with the value that was given."""
    position = next(at for at, word in enumerate(words) if word.partition("=")[0] == option)
    value = words[position].partition("=")[2] or next(iter(words[position + 1 :]), "VALUE")
    return f"no option {option}; recipe keys are set with --set {_RECIPE_KEYS[option]}={value}"


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A packaged recipe (dual_stream_ir, demo; all: mvkit list recipes), or the path of one.",
            show_default=False,
            autocompletion=complete_recipes(""),
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Folder of betons or of images.",
            show_default="what mvkit prep made",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder of the run.",
            show_default="runs/NAME",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key of the recipe (train.epochs=1); repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the resolved recipe and the plan; train nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|FILE",
            help="Go on from the run's last.pt, start afresh, or go on from a checkpoint.",
            rich_help_panel=_RUN,
        ),
    ] = "auto",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Start from released or random weights, or from this checkpoint (or FILE:KEY).",
            show_default="as the recipe says",
            rich_help_panel=_RUN,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's files.", rich_help_panel=_RUN)
    ] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help=DEVICE_HELP, rich_help_panel=MACHINE)] = "auto",
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-p",
            metavar="N",
            min=1,
            help="Processes on this machine, one per GPU.",
            show_default="1",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Loader threads of a process.",
            show_default="all cores, shared",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Micro-batches per step, to save memory.", rich_help_panel=MACHINE
        ),
    ] = 1,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="Of the network (autocast).", rich_help_panel=MACHINE)
    ] = PrecisionChoice.FP32,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Memory order for GPUs.", rich_help_panel=MACHINE)
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network.", rich_help_panel=MACHINE)
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network as a recipe says; Ctrl-C saves, and the same command goes on."""
    from mvkit.pipeline.train import TrainRequest, plan_training

    request = TrainRequest(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        images=images,
        out=out,
        resume=resume,
        weights=weights,
        tensorboard=tensorboard,
        home=home_path(home),
        device=device,
        workers=workers,
        accumulate=accumulate,
        precision=precision.value,
        channels_last=channels_last,
        compile=compile_,
    )
    if dry_run:
        _print_plan(plan_training(request, processes=processes or 1), as_json=as_json)
    elif processes is not None and processes > 1:
        _run_in_processes(request, processes, as_json=as_json)
    else:
        _run(request, as_json=as_json)


def _print_plan(plan: TrainPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_json())
        return
    import yaml

    print_line(yaml.safe_dump(dict(plan.recipe), sort_keys=False, allow_unicode=True, width=110))
    for line in plan_lines(plan):
        print_line(line)


def plan_lines(plan: TrainPlan) -> Iterator[str]:
    """Yield the plan as lines for people."""
    size, memory = plan.size, plan.memory
    yield f"images      {plan.images or f'not here yet; numbers are for {size.n_images:,} images'}"
    yield (
        f"steps       {size.n_steps:,} ({size.steps_per_epoch:,} an epoch, batches of {size.batch_size:,} "
        "of all processes together)"
    )
    yield f"parameters  {size.n_parameters:,}, of them trained {size.n_trained:,}"
    yield (
        f"memory      about {format_bytes(memory.total)} a process: state {format_bytes(memory.state)}, "
        f"training {format_bytes(memory.training)}, activations {format_bytes(memory.activations)} (float32)"
    )
    each, total = max(plan.files.values()), sum(plan.files.values())
    yield (
        f"files       {plan.folder}: log.jsonl, {len(plan.files)} checkpoints of {format_bytes(each)}, "
        f"together at most {format_bytes(total)}"
    )
    yield f"digest      {plan.digest}"
    if plan.problem:
        yield f"missing     {plan.problem}"


def _run_in_processes(request: TrainRequest, processes: int, *, as_json: bool) -> None:
    from mvkit.pipeline.train import check_request
    from mvkit.training.recipe import check_processes_divide

    # Before processes are started, which takes seconds.
    recipe = check_request(request)
    check_processes_divide(recipe.train.batch_size, processes)

    from mvkit.distributed import run_processes
    from mvkit.machine import choose_device

    words = [*_command_line(request), *(["--json"] if as_json else [])]
    code = run_processes(processes, words, device=choose_device(request.device))
    if code:
        raise typer.Exit(code)


def _command_line(request: TrainRequest) -> list[str]:
    """Return the command line of one of several processes."""
    options: dict[str, object] = {
        "--images": request.images,
        "--out": request.out,
        "--resume": request.resume,
        "--weights": request.weights,
        "--device": request.device,
        "--workers": request.workers,
        "--accumulate": request.accumulate,
        "--precision": request.precision,
        "--home": request.home,
    }
    flags = {
        "--tensorboard": request.tensorboard,
        "--channels-last": request.channels_last,
        "--compile": request.compile,
    }
    return [
        "train",
        request.recipe,
        *(f"{name}={value}" for name, value in options.items() if value is not None),
        *(f"--set={override}" for override in request.overrides),
        *(name for name, is_set in flags.items() if is_set),
    ]


def _run(request: TrainRequest, *, as_json: bool) -> None:
    from mvkit.pipeline.train import check_request, run_training

    # Before torch is imported, which takes seconds.
    check_request(request)

    from mvkit.training.log import Callbacks

    with training_display() as (message, pace):
        report = run_training(request, callbacks=Callbacks(message, pace))
    _print_report(report, as_json=as_json)


Message = Callable[[str], None]
ShowPace = Callable[["Pace"], None]


@contextmanager
def training_display() -> Iterator[tuple[Message, ShowPace]]:
    """Yield functions that show messages, and the pace in one line below them (on a terminal only)."""
    if not sys.stderr.isatty():
        yield note, lambda pace: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}")]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=None, pace="")

        def show(pace: Pace) -> None:
            bar.update(
                task,
                description=f"epoch {pace.epoch}/{pace.n_epochs}",
                completed=pace.step,
                total=pace.n_steps,
                pace=describe_pace(pace),
            )

        yield lambda text: console.print(text, markup=False), show


def describe_pace(pace: Pace) -> str:
    """Return ``step 120/2,000, loss 3.21, 4,100 images/s, 0:07:30 left, waiting for the loader``."""
    limit = "waiting for the loader" if pace.bottleneck == "loader" else "limited by compute"
    return (
        f"step {pace.step:,}/{pace.n_steps:,}, loss {pace.loss:.4g}, {pace.images_per_s:,.0f} images/s, "
        f"{_duration(pace.eta_s)} left, {limit}"
    )


def _duration(seconds: float) -> str:
    """Return ``1 d 2:03:04``; "unknown" if it is not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    days, rest = divmod(round(seconds), 86_400)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02d}:{second:02d}"


def _print_report(report: TrainReport, *, as_json: bool) -> None:
    from mvkit.models.names import BEST

    fit = report.fit
    if as_json:
        print_json(report.to_json())
    else:
        print_line(f"{report.recipe}: step {fit.step:,} of {fit.n_steps:,}, {fit.epochs} epochs finished")
        for name, value in fit.metrics.items():
            print_line(f"  {name} {value:.4g}")
        print_line(f"wrote {fit.folder / 'last.pt'}")
        if fit.scored == BEST and fit.best is not None:
            chosen = f"best {fit.best_by}: {fit.best:.4g}"
            print_line(f"as a model, {fit.folder} stands for {fit.folder / BEST} ({chosen})")
    if fit.interrupted:
        note("go on with the same command")
        raise typer.Exit(_INTERRUPTED)
