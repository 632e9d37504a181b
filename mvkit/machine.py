"""The machine a run is on: its cores, memory and disk, what a run may use of them, and software versions."""

from __future__ import annotations

import errno
import hashlib
import math
import multiprocessing
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import mvkit
from mvkit.errors import FetchHaltedError, UsageError
from mvkit.files import format_bytes

if TYPE_CHECKING:
    import torch

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
#: Limits of the control groups that this process belongs to: containers, batch jobs.
_CGROUP_ROOT, _CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: Files of limit and use of version 2 and version 1, and the entry of memory.stat for cached pages of files,
#: which count as used but are freed on demand.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
#: No space, quota exceeded, longer than files may be.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: So long may a worker go on after the process that started it.
_WATCH_S = 0.5


@dataclass(frozen=True)
class Resources:
    """Processes, device, memory and disk of a run; None means the default.

    Nothing here changes what is measured, but for rounding.

    Attributes
    ----------
    n_jobs
        Worker processes; None: one per core (of the cluster, with ``dask``).
    device
        Device for features and their Gram matrices: "cpu", "cuda", "cuda:1", ..., or "auto". A GPU that is
        named makes fits, too (:func:`mvkit.pipeline.layers.fit_device`).
    batch_size
        Images per forward pass; None: about as many pixels in a batch for any size of image. Another number
        changes features by float32 rounding.
    home
        mvkit's home directory.
    scratch
        Folder for features that do not fit in memory; None: ``scratch`` in mvkit's cache.
    cache
        Whether cached results are used, and new ones cached.
    dask
        Address of the scheduler of the dask cluster on which jobs run; None: in processes of this machine.
    """

    n_jobs: int | None = None
    device: str = "cpu"
    batch_size: int | None = None
    home: Path | None = None
    scratch: Path | None = None
    cache: bool = True
    dask: str | None = None


def check_device(name: str) -> None:
    """Check that a name is one of a kind of device; whether this machine has one is checked by torch.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    if re.fullmatch(r"auto|(cpu|cuda|mps|xpu|hpu|mtia|xla)(:\d+)?", name) is None:
        raise UsageError(f"device {name}: give auto, cpu, cuda, or cuda:1 for the second GPU")


def worker_number(resources: Resources) -> int:
    """Return the worker processes of a run: by default one per core, of this machine or the cluster (-1)."""
    return resources.n_jobs or (available_cores() if resources.dask is None else -1)


def choose_device(name: str | torch.device | None) -> torch.device:
    """Return the device of a name; of ``None`` and ``"auto"`` a GPU if there is one, else the processor.

    Raises
    ------
    UsageError
        If there is no such kind of device, or none here.
    """
    if isinstance(name, str):
        check_device(name)
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # A build without CUDA says so with an AssertionError.
        kind, n_gpus = str(name).partition(":")[0], torch.cuda.device_count()
        if kind == "cuda" and n_gpus:
            raise UsageError(f"device {name}: there are {n_gpus} GPUs here, counted from cuda:0") from error
        kind = "GPU" if kind == "cuda" else f"{kind} device"
        raise UsageError(f"device {name}: no {kind} here that torch can use; give cpu or auto") from error
    return device


def describe_gpu(device: torch.device) -> str | None:
    """Return ``cuda:0 (NVIDIA H100)`` of a GPU; None of the processor, which needs no mention."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return str(device)
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    return f"cuda:{index} ({torch.cuda.get_device_name(index)})"


def available_cores() -> int:
    """Return how many cores this process may use: those it is bound to, fewer if its container has a quota.

    A quota of 1.5 cores counts as 2, as joblib counts. Quotas of parent groups count, too.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min([cores, *(quota for folder in _cgroup_folders("cpu") if (quota := _cpu_quota(folder)))])


def is_worker_process() -> bool:
    """Return whether this process is itself a worker: of a pool of multiprocessing, joblib or dask.

    Such a process starts no workers of its own: its pool uses the cores already, and workers of workers may
    be forbidden (daemons) or outlive what they were started for.
    """
    return multiprocessing.parent_process() is not None


@cache
def end_with_parent(parent: int) -> None:
    """Let this process, a worker, end when the one that started it ends, or has ended, however it does.

    Parameters
    ----------
    parent
        Number of the process that started it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_forked_worker() -> bool:
    """Return whether this process is a worker that was forked, so that threads of its parent are missing."""
    if not is_worker_process():
        return False
    # None of a process whose kind is the default one.
    kind = getattr(multiprocessing.current_process(), "_start_method", None)
    return (kind or multiprocessing.get_start_method()) == "fork"


class SharedContext:
    """A context that changes the whole process, and that several threads may be in at once.

    The first thread enters it and the last one leaves it: were each to restore what it found, a thread would
    lose the setting in the middle of its work, and the process would keep it for good.

    Parameters
    ----------
    enter
        Returns the context.
    """

    def __init__(self, enter: Callable[[], AbstractContextManager[object]]) -> None:
        self._enter = enter
        self._context: AbstractContextManager[object] | None = None
        self._count, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._context is None:
                context = self._enter()
                context.__enter__()
                self._context = context
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._context is not None:
                context, self._context = self._context, None
                context.__exit__(None, None, None)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    changed = {"PYTHONSAFEPATH": "1"}
    source = Path("mvkit", "machine.py")
    if source.exists() and source.samefile(__file__):
        # In a checkout, mvkit may be found through the current folder only.
        paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


#: No Python that is started within has the current folder on its path, where a ``signal.py`` may lie. Workers
#: that are sent ``sys.path`` (those of joblib and multiprocessing) find afterwards what this process finds.
safe_child_path = SharedContext(_without_current_folder)


def available_memory() -> int | None:
    """Return the bytes available without swapping, of the machine and its limits; None if not known."""
    limits = [
        free for free in (_kilobytes(_MEMINFO, "MemAvailable:"), _free_in_cgroups()) if free is not None
    ]
    return min(limits) if limits else None


def resident_memory() -> int:
    """Return the bytes that this process uses; 0 where the system does not report them."""
    return _kilobytes(_STATUS, "VmRSS:") or 0


def free_disk(path: Path) -> int:
    """Return the free bytes of the file system on which ``path`` lies or would lie."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def check_free_disk(path: Path, needed: int) -> None:
    """Check that what is to be written will fit.

    Raises
    ------
    FetchHaltedError
        If fewer than ``needed`` bytes are free at ``path``.
    """
    free = free_disk(path)
    if free < needed:
        raise FetchHaltedError(
            f"{path}: {format_bytes(needed)} of disk are needed and {format_bytes(free)} are free\n"
            f"free {format_bytes(needed - free)}, or choose another folder with --home or MVKIT_HOME"
        )


@contextmanager
def explain_full_disk(path: Path, *, remedy: str) -> Iterator[None]:
    """Turn the system's "no space left" (disk, quota, file size limit) into a FetchHaltedError.

    Parameters
    ----------
    path
        File or directory being written.
    remedy
        What the user should do once there is space.

    Raises
    ------
    FetchHaltedError
        If the block fails for want of space; other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise FetchHaltedError(f"{path}: the disk is full ({error.strerror})\n{remedy}") from error


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Raise ``error`` in a block that computes for longer, such as a regular expression that backtracks.

    Only where the system has timers of computing time and in the main thread; elsewhere there is no limit.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise error

    handler = signal.signal(signal.SIGVTALRM, stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, handler)


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of mvkit, Python and some packages; "not installed" where one is missing."""
    versions = {"mvkit": mvkit.__version__, "python": platform.python_version()}
    return versions | {package: _installed_version(package) for package in packages}


@cache
def _installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def sources_digest(*parts: str) -> str:
    """Return the sha256 (hex) over mvkit's sources in some of its packages, so that edited code counts.

    Parameters
    ----------
    parts
        Packages or files of ``mvkit``, such as "features" or "rng.py".
    """
    root = Path(__file__).parent
    state = hashlib.sha256()
    for part in parts:
        # A part that does not exist is an error, not an empty digest.
        for path in sorted((root / part).rglob("*.py")) or [root / part]:
            state.update(path.relative_to(root).as_posix().encode() + b"\0")
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _kilobytes(path: Path, label: str) -> int | None:
    """Return the bytes of a line like ``MemAvailable:  24 kB``; None if there is no such line or file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(label)), None)
    return None if words is None else int(words[1]) * 1024


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and their parents, of version 2 and version 1."""
    try:
        lines = _CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        # Version 2 is one tree for all controllers, and names none.
        if controllers == "" or controller in controllers.split(","):
            group = _CGROUP_ROOT / (controller if controllers else "") / path.strip("/")
            yield from (group, *group.parents)


def _cpu_quota(folder: Path) -> int | None:
    """Return the cores that a control group may use, rounded up; None if it has no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
        else:
            quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no limit ("max"), or no such file
        return None
    # Version 1 writes -1 where there is no limit.
    return math.ceil(quota / period) if quota > 0 and period > 0 else None


def _free_in_cgroups() -> int | None:
    """Return the bytes left by the tightest limit of this process's control groups and their parents."""
    limits = (_free_in(folder, *files) for folder in _cgroup_folders("memory") for files in _MEMORY_FILES)
    return min((n_bytes for n_bytes in limits if n_bytes is not None), default=None)


def _free_in(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    try:
        most = int((folder / limit).read_text(encoding="ascii"))
        in_use = int((folder / used).read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(line.split(maxsplit=1) for line in lines).get(reclaimable, 0))
    except (OSError, ValueError):  # no limit ("max"), or no such file
        return None
    return max(0, most - in_use + cached)
