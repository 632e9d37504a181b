"""Starting several processes for one training: torchrun without a second command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mvkit.errors import MvkitError, UsageError
from mvkit.processes.places import find_place

INTERRUPTED = 130
#: What each process runs.
COMMAND = "from mvkit.cli.main import main; main()"
#: Time for the step in progress and a checkpoint after Ctrl-C or SIGTERM, before processes are killed.
_FAREWELL_S = 300


def rows_per_process(batch_size: int, n_processes: int) -> int:
    """Return each process's part of a global batch.

    Raises
    ------
    UsageError
        If the batch cannot be divided equally.
    """
    if batch_size % n_processes:
        possible = [n for n in range(1, n_processes + 1) if batch_size % n == 0]
        raise UsageError(
            f"a batch of {batch_size} images cannot be shared equally by {n_processes} processes\n"
            f"use {' or '.join(map(str, possible[-2:]))} processes, or set train.batch_size to a multiple of "
            f"{n_processes}"
        )
    return batch_size // n_processes


def run_processes(n: int, argv: Sequence[str], *, device: torch.device | None = None) -> int:
    """Run ``mvkit`` with these words in several processes on this machine, under torchrun.

    Ctrl-C and SIGTERM reach all processes. When one fails, the others are
    stopped; the one that failed first has reported why (:class:`Membership`).

    Parameters
    ----------
    n
        Number of processes.
    argv
        Words after ``mvkit``; each process finds its place in the environment.
    device
        Where they compute; for "cuda", each needs a GPU of its own.

    Returns
    -------
    int
        0, the exit code of the process that failed first, or 130 if interrupted.

    Raises
    ------
    UsageError
        If ``n`` is not positive or above the number of GPUs, or this process is itself one of several.
    MvkitError
        If a process was killed by a signal.
    """
    _check(n, device)
    _prepare_environment(n)
    _hush()
    with tempfile.TemporaryDirectory(prefix="mvkit_processes_") as folder:
        launch = elastic_launch(_configuration(n, folder), sys.executable)
        try:
            launch("-c", COMMAND, *argv)
        except SignalException:
            return INTERRUPTED
        except ChildFailedError as error:
            return _exit_code(_cause(error))
    return 0


def _check(n: int, device: torch.device | None) -> None:
    if n < 1:
        raise UsageError(f"{n} processes: give 1 or more")
    place = find_place(os.environ)
    if place is not None:
        raise UsageError(
            f"this is already process {place.rank} of {place.n_processes} (torchrun or srun): "
            "leave out --processes"
        )
    if device is not None and device.type == "cuda" and n > torch.cuda.device_count():
        raise UsageError(
            f"{n} processes need {n} GPUs, {torch.cuda.device_count()} visible: use fewer, or --device cpu"
        )


def _prepare_environment(n: int) -> None:
    """Share the cores among processes and keep their talk on this machine, unless the user said otherwise."""
    n_cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores // n)))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # On some machines a job of one process leaves these; they would be taken for a place.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)


def _hush() -> None:
    """Keep torchrun from repeating, as warnings and tables, what the failing process has said."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.distributed.elastic") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.CRITICAL)


def _configuration(n: int, folder: str) -> LaunchConfig:
    known = {field.name for field in fields(LaunchConfig)}
    settings: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": n,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        # Port 0: any that is free.
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "max_restarts": 0,
        "logs_specs": DefaultLogsSpecs(log_dir=folder),
        "shutdown_timeout": _FAREWELL_S,
    }
    # Older torch knows fewer (and kills after 30 s).
    return LaunchConfig(**{name: value for name, value in settings.items() if name in known})


def _cause(error: ChildFailedError) -> ProcessFailure:
    """Return the failure that the others followed; of those seen together, a kill, which follows nothing.

    Except by SIGTERM: so torchrun ends those that are left.
    """

    def order(failure: ProcessFailure) -> tuple[int, bool]:
        is_killed = failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM
        return failure.timestamp, not is_killed

    return min(error.failures.values(), key=order)


def _exit_code(failure: ProcessFailure) -> int:
    if failure.exitcode >= 0:
        return failure.exitcode
    number = -failure.exitcode
    if number in (signal.SIGINT, signal.SIGTERM):
        return INTERRUPTED
    raise MvkitError(f"process {failure.local_rank} was killed by {signal.Signals(number).name}")
