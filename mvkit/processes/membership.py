"""Taking part in a group of processes: joining, falling silent, failing once, leaving."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from mvkit.errors import MvkitError, UsageError
from mvkit.processes.places import Place, find_place
from mvkit.processes.world import is_member

#: How long processes wait for each other: process 0 may evaluate alone for a while.
WAIT = timedelta(minutes=30)
_FAILED = "failed"
#: What gloo says when the other end of a connection closes.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Membership:
    """Taking part in the group that torchrun or srun started, if any, as a context manager.

    Entering joins the group and returns this process's device. Processes talk
    by gloo, and by nccl where tensors lie on GPUs. From then on only process 0
    is heard on standard output and error. If processes fail, the first to do
    so reports; the others, which fail as a consequence or for the same
    reason, fall silent and fail too. Alone, it does nothing. A program that
    was a member ends by :func:`end_program`.

    Parameters
    ----------
    device
        What the user asked for; "cuda" becomes the GPU of this process's number on its machine.
    wait
        After this long without an answer from the others, a process gives up.

    Raises
    ------
    UsageError
        If there are fewer GPUs than processes, or the variables of the environment are incomplete.
    MvkitError
        If the others cannot be reached.
    """

    def __init__(self, device: torch.device, *, wait: timedelta = WAIT) -> None:
        self._device = device
        self._wait = wait
        self._place = find_place(os.environ)
        self._store: Store | None = None
        self._be_heard: Callable[[], None] | None = None

    def __enter__(self) -> torch.device:
        """Join; return this process's device."""
        if self._place is None:
            return self._device
        self._store = _store(self._place, self._wait)
        if self._place.rank > 0:
            self._be_heard = _silence()
        try:
            device = _own_device(self._device, self._place)
            _join(self._place, device, self._store, self._wait)
        except MvkitError as error:
            self._fail(error)
            raise
        return device

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave; after a failure, let the first process that failed speak."""
        if self._store is None:
            return
        if error is None:
            # Not after a failure: it would wait for processes that are gone.
            distributed.destroy_process_group()
        elif isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Let the error pass, to be reported if it is the first, else in silence."""
        if self._store is not None and not _is_first_to_fail(self._store):
            if self._be_heard is None:
                self._be_heard = _silence()
            return
        if self._be_heard is not None:
            self._be_heard()
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST):
            raise MvkitError("another process has gone (killed, or out of memory?): cannot go on") from error


def end_program(code: int) -> NoReturn:
    """End this program, without tearing down what it still shares with processes that may be gone.

    After a failure the group is never left (see :class:`Membership`), and
    its threads may be at work when the interpreter takes itself apart: C++
    then ends the program with SIGABRT in place of its exit code.

    Parameters
    ----------
    code
        Exit code.
    """
    if is_member():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _own_device(device: torch.device, place: Place) -> torch.device:
    if device.type != "cuda":
        return device
    n_gpus = torch.cuda.device_count()
    number = 0 if place.own_gpu_only and n_gpus == 1 else place.local_rank
    if number >= n_gpus:
        raise UsageError(
            f"process {place.local_rank} of this machine has no GPU: {n_gpus} visible; use fewer processes"
        )
    own = torch.device("cuda", number)
    torch.cuda.set_device(own)
    return own


def _store(place: Place, wait: timedelta) -> Store:
    """Return what processes find each other by: torchrun serves it, or else process 0."""
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        served = TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0 and not is_served,
            timeout=wait,
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise _unreachable(place, error) from error
    # What a failed attempt wrote must not be read by the next one that torchrun starts.
    return PrefixStore(f"mvkit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", served)


def _join(place: Place, device: torch.device, store: Store, wait: timedelta) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.n_processes, timeout=wait
        )
    except RuntimeError as error:
        raise _unreachable(place, error) from error


def _unreachable(place: Place, error: RuntimeError) -> MvkitError:
    reason = str(error).splitlines()[0]
    return MvkitError(
        f"process {place.rank} of {place.n_processes} cannot meet the others at "
        f"{place.address}:{place.port}: {reason}\nwere all of them started, with the same address?"
    )


def _is_first_to_fail(store: Store) -> bool:
    """Return whether no other process failed before: a failure arrives here ahead of its consequences."""
    try:
        return int(store.add(_FAILED, 1)) == 1
    except RuntimeError:
        # The process that served the store is gone: that one failed first.
        return False


def _silence() -> Callable[[], None]:
    """Send this process's output, that of compiled libraries too, nowhere; return what undoes it."""
    kept = []
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        number = stream.fileno()
        kept.append((stream, number, os.dup(number)))
        stream.flush()
        os.dup2(nowhere, number)
    os.close(nowhere)

    def undo() -> None:
        for stream, number, before in kept:
            # What was written in silence stays unsaid.
            stream.flush()
            os.dup2(before, number)

    return undo
