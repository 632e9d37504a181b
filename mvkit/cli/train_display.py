"""Progress of training on stderr: a line that is renewed, or none where stderr is no terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mvkit.cli.console import note
from mvkit.files import format_bytes

if TYPE_CHECKING:
    from mvkit.training.pace import Pace
    from mvkit.training.plan import TrainPlan

Remark = Callable[[str], None]
Watch = Callable[["Pace"], None]


@contextmanager
def training_display() -> Iterator[tuple[Remark, Watch]]:
    """Yield where to send sentences and paces; sentences stay, the pace is one line below them."""
    if not sys.stderr.isatty():
        yield note, lambda pace: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, highlight=False)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}")]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=None, pace="")

        def watch(pace: Pace) -> None:
            bar.update(
                task,
                description=f"epoch {pace.epoch}/{pace.n_epochs}",
                completed=pace.step,
                total=pace.n_steps,
                pace=describe_pace(pace),
            )

        yield lambda text: console.print(text, markup=False), watch


def describe_pace(pace: Pace) -> str:
    """Return ``step 120/2,000, loss 3.21, 4,100 images/s, 0:07:30 left, waiting for the loader``."""
    limit = "waiting for the loader" if pace.bottleneck == "loader" else "limited by compute"
    return (
        f"step {pace.step:,}/{pace.n_steps:,}, loss {pace.loss:.4g}, {pace.images_per_s:,.0f} images/s, "
        f"{duration(pace.eta_s)} left, {limit}"
    )


def duration(seconds: float) -> str:
    """Return ``1 d 2:03:04``; "unknown" if it is not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    days, rest = divmod(round(seconds), 86_400)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02d}:{second:02d}"


def plan_lines(plan: TrainPlan) -> Iterator[str]:
    """Yield the plan as lines for people."""
    size, memory = plan.size, plan.memory
    found = plan.images or f"not here yet; numbers are for {size.n_images:,} images"
    yield f"images      {found}"
    yield (
        f"steps       {size.n_steps:,} ({size.steps_per_epoch:,} an epoch, batches of {size.batch_size:,} "
        "of all processes together)"
    )
    yield f"parameters  {size.n_parameters:,}, of them trained {size.n_trained:,}"
    yield (
        f"memory      about {format_bytes(memory.total)} a process: state {format_bytes(memory.state)}, "
        f"training {format_bytes(memory.training)}, activations {format_bytes(memory.activations)} (float32)"
    )
    largest = max(plan.files.values())
    yield f"files       {plan.folder}: log.jsonl, {len(plan.files)} checkpoints of {format_bytes(largest)}"
    yield f"digest      {plan.digest}"
    if plan.problem:
        yield f"missing     {plan.problem}"
