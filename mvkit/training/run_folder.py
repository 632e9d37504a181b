"""The folder of a run: one process at a time, and whether there is something to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mvkit.atomic import write_text
from mvkit.errors import CheckpointError, UsageError
from mvkit.models.trained import LAST
from mvkit.training.checkpoints import clear_leftovers, read_run
from mvkit.training.recipe import TrainRecipe

AUTO, NEVER = "auto", "never"
_LOCK = ".train.lock"
_RECIPE = "recipe.yaml"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other processes; made if missing.

    The system releases the lock when its holder dies, however it dies.

    Raises
    ------
    UsageError
        Another process is training there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{folder}: another process is training here\nwait for it to end, or choose another --out"
        ) from error
    try:
        clear_leftovers(folder)
        yield
    finally:
        lock.release()


def find_resume(folder: Path, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint to go on from and its contents; None: start afresh.

    Parameters
    ----------
    folder
        Of the run.
    resume
        "auto": from ``last.pt`` of the folder if there is one; "never": start
        afresh, in a folder that holds no run; otherwise the path of a checkpoint.

    Raises
    ------
    UsageError
        "never", and the folder holds a run.
    CheckpointError
        The checkpoint is missing, damaged, or none of a run.
    """
    last = folder / LAST
    if resume not in (AUTO, NEVER):
        path = Path(resume).expanduser()
        return path, read_run(path)
    if not last.exists():
        return None
    if resume == NEVER:
        raise UsageError(
            f"{folder} already holds a run ({LAST}); it is never overwritten\n"
            "choose another --out, or go on with it: --resume auto"
        )
    try:
        return last, read_run(last)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nor go on from an older one: --resume {folder}/epoch_NNNN.pt"
        ) from error


def write_recipe(folder: Path, recipe: TrainRecipe) -> None:
    """Write the resolved recipe to ``recipe.yaml``; reading it gives the same recipe."""
    document = recipe.model_dump(mode="json")
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / _RECIPE, text)
