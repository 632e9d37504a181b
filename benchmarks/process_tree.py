"""Memory, open files and threads of a process and its children, as Linux tells them in /proc."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

#: mvkit as a user runs it: the current folder is not on the path.
MVKIT = [
    *(sys.executable, "-P", "-c"),
    "import sys; from mvkit.cli.main import main; sys.argv[0] = 'mvkit'; main()",
]
_PROC = Path("/proc")
_SHARED = Path("/dev/shm")
#: Seconds between two looks at a command's processes.
_EVERY_S = 0.5


@dataclass(frozen=True)
class TreeUse:
    """What a process and its children use at a moment; memory in MB (10**6 bytes).

    Attributes
    ----------
    own_mb
        Resident memory of the process itself.
    workers_mb
        Resident memory of all its children and theirs.
    tree_mb
        Of all together without files that are mapped (libraries, a beton), which the system drops when it
        needs room; what processes share is counted once.
    files, threads, processes
        Numbers over all of them.
    shared_files
        Files in /dev/shm, also in folders there, that carry the number of one of them in their name. (joblib
        leaves an empty folder for every use of its workers until the process ends.)
    """

    own_mb: float
    workers_mb: float
    tree_mb: float
    files: int
    threads: int
    processes: int
    shared_files: int


@dataclass(frozen=True)
class Measured:
    """A command that has ended: exit code, time, time of all cores together, output, and its peaks in MB.

    ``own_mb`` is the peak of the process itself (VmHWM, with mapped files), ``worker_mb`` the greatest peak
    of a child, ``tree_mb`` the greatest :attr:`TreeUse.tree_mb` seen.
    """

    code: int
    seconds: float
    cpu_s: float
    output: str
    own_mb: float
    worker_mb: float
    tree_mb: float

    def line(self, what: str) -> str:
        """Return a row of a table: what was done, time, peaks."""
        workers = f"{self.worker_mb:8.0f}" if self.worker_mb else f"{'-':>8}"
        return f"{what:<42}{self.seconds:8.1f}{self.cpu_s:8.1f}{self.own_mb:8.0f}{workers}{self.tree_mb:8.0f}"


#: Head of the table of :meth:`Measured.line`.
HEAD = f"{'':<42}{'seconds':>8}{'CPU s':>8}{'own MB':>8}{'worker':>8}{'tree':>8}"


def use_of(pid: int) -> TreeUse:
    """Return what a process and its children use now."""
    family = [pid, *_descendants(pid)]
    resident = {one: _kilobytes(one, "status", "VmRSS") for one in family}
    return TreeUse(
        own_mb=_mb(resident[pid]),
        workers_mb=_mb(sum(kb for one, kb in resident.items() if one != pid)),
        tree_mb=_together(family),
        files=sum(_count(one, "fd") for one in family),
        threads=sum(_count(one, "task") for one in family),
        processes=len(family),
        shared_files=sum(1 for name in _shared_files() if any(str(one) in name for one in family)),
    )


def run_measured(command: list[str], *, environment: dict[str, str] | None = None) -> Measured:
    """Run a command to its end and return its peaks of memory; stdout and stderr come together."""
    began = time.perf_counter()
    own = worker = tree = 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        before = _cpu_of_children()
        while process.poll() is None:
            own = max(own, _mb(_kilobytes(process.pid, "status", "VmHWM")))
            children = _descendants(process.pid)
            worker = max([worker, *(_mb(_kilobytes(one, "status", "VmHWM")) for one in children)])
            tree = max(tree, _together([process.pid, *children]))
            time.sleep(_EVERY_S)
        seconds = time.perf_counter() - began
        output.seek(0)
        cpu_s = _cpu_of_children() - before
        return Measured(process.returncode, seconds, cpu_s, output.read(), own, worker, tree)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _together(family: list[int]) -> float:
    parts = ("Pss_Anon", "Pss_Shmem")
    return _mb(sum(_kilobytes(one, "smaps_rollup", part) for one in family for part in parts))


def _shared_files() -> list[str]:
    return [str(path) for path in _SHARED.rglob("*") if path.is_file()] if _SHARED.is_dir() else []


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in _names(pid, "task"):
        try:
            children += map(int, (_PROC / str(pid) / "task" / task / "children").read_text().split())
        except OSError:
            continue
    return [one for child in children for one in (child, *_descendants(child))]


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", (_PROC / str(pid) / file).read_text(), re.MULTILINE)
    except OSError:
        return 0  # it has just ended
    return int(found[1]) if found else 0


def _mb(kilobytes: int) -> float:
    return kilobytes * 1024 / 1e6


def _names(pid: int, folder: str) -> list[str]:
    try:
        return [path.name for path in (_PROC / str(pid) / folder).iterdir()]
    except OSError:
        return []


def _count(pid: int, folder: str) -> int:
    return len(_names(pid, folder))
