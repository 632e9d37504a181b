"""``mvkit train``: train a network as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.cli.console import HomeOption, JsonOption, note, print_json, print_line

if TYPE_CHECKING:
    from mvkit.train_run import TrainReport, TrainRequest
    from mvkit.training.plan import TrainPlan

_RUN = "Run"
_MACHINE = "Machine (changes nothing of what is computed but rounding)"
_INTERRUPTED = 130
_PRECISIONS = ("fp32", "bf16", "fp16")


def command(
    recipe: Annotated[str, typer.Argument(help="Recipe: a path or a packaged name (dual_stream_ir, demo).")],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Betons or images; default: as prepared by mvkit prep."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run; default: runs/NAME.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key (train.epochs=1)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; train nothing.")
    ] = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH",
            help="Go on from the run's last.pt, start afresh, or go on from a checkpoint.",
            rich_help_panel=_RUN,
        ),
    ] = "auto",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Start from this checkpoint, or: released, random; default: as the recipe says.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's files.", rich_help_panel=_RUN)
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1; default: a GPU if there is one.", rich_help_panel=_MACHINE),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "-p", min=1, help="Processes on this machine (GPUs).", rich_help_panel=_MACHINE
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Loader threads of a process; default: all cores.", rich_help_panel=_MACHINE
        ),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(min=1, help="Micro-batches per step, to save memory.", rich_help_panel=_MACHINE),
    ] = 1,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16 (autocast).", rich_help_panel=_MACHINE)
    ] = "fp32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Memory order for GPUs.", rich_help_panel=_MACHINE)
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile the network.", rich_help_panel=_MACHINE)
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network as a recipe says; Ctrl-C saves, and the same command goes on."""
    from mvkit.naming import unknown_name
    from mvkit.train_run import Machine, TrainRequest, plan_training

    if precision not in _PRECISIONS:
        raise unknown_name("precision", precision, _PRECISIONS)
    request = TrainRequest(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        images=images,
        out=out,
        resume=resume,
        weights=weights,
        tensorboard=tensorboard,
        machine=Machine(
            device=device,
            workers=workers,
            accumulate=accumulate,
            precision=precision,  # type: ignore[arg-type]
            channels_last=channels_last,
            compile=compile_,
        ),
        home=Path(home) if home else None,
    )
    if dry_run:
        _show_plan(plan_training(request, processes=processes or 1), as_json=as_json)
        return
    if processes is not None and processes > 1:
        _run_in_processes(request, processes, as_json=as_json)
        return
    _show_report(_train(request), as_json=as_json)


def _train(request: TrainRequest) -> TrainReport:
    from mvkit.cli.train_display import training_display
    from mvkit.train_run import run_training
    from mvkit.training.reporting import Hearers

    with training_display() as (remark, watch):
        return run_training(request, hearers=Hearers(remark, watch))


def _run_in_processes(request: TrainRequest, processes: int, *, as_json: bool) -> None:
    from mvkit.distributed import run_processes
    from mvkit.train_run import resolve_recipe
    from mvkit.training.assembly import choose_device
    from mvkit.training.order import check_processes_divide

    # Before processes are started, which takes seconds.
    check_processes_divide(resolve_recipe(request).train.batch_size, processes)
    device = choose_device(request.machine.device)
    words = _words(request) + (["--json"] if as_json else [])
    code = run_processes(processes, words, device=device)
    if code:
        raise typer.Exit(code)


def _words(request: TrainRequest) -> list[str]:
    """Return the command line of one of several processes."""
    machine = request.machine
    options: dict[str, object] = {
        "--images": request.images,
        "--out": request.out,
        "--resume": request.resume,
        "--weights": request.weights,
        "--device": machine.device,
        "--workers": machine.workers,
        "--accumulate": machine.accumulate,
        "--precision": machine.precision,
        "--home": request.home,
    }
    flags = {
        "--tensorboard": request.tensorboard,
        "--channels-last": machine.channels_last,
        "--compile": machine.compile,
    }
    return [
        "train",
        request.recipe,
        *(f"{name}={value}" for name, value in options.items() if value is not None),
        *(f"--set={override}" for override in request.overrides),
        *(name for name, wanted in flags.items() if wanted),
    ]


def _show_plan(plan: TrainPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_json())
        return
    import yaml

    from mvkit.cli.train_display import plan_lines

    print_line(yaml.safe_dump(dict(plan.recipe), sort_keys=False, allow_unicode=True, width=110))
    for line in plan_lines(plan):
        print_line(line)


def _show_report(report: TrainReport, *, as_json: bool) -> None:
    from mvkit.models.trained import BEST

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
