"""mvkit's commands in forked processes, where a preloaded library lets the n-th system call fail."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SHIM = Path(__file__).parent / "shim.c"
#: What the preloaded library does at the n-th call; as in its ``enum``.
COUNT, ONCE, STICKY, KILL, INTERRUPT, VANISH = range(6)
TIMEOUT_S = 90.0
#: Time that workers have to notice that their parent is gone; on a busy machine they may still be starting.
_ORPHANS_S = 60.0


@dataclass(frozen=True)
class Fault:
    """What happens to a process, and at which of its calls that change files below a folder."""

    mode: int = COUNT
    call: int = 0
    number: int = 0  # errno
    torn: bool = False  # a write that is struck has written its half
    after_s: float | None = None  # a signal from outside at this time instead
    clock_shift_s: int = 0
    clock_step_s: int = 0  # how far the clock goes back at every look at it


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int  # negative: by this signal
    out: str
    err: str
    n_calls: int
    seconds: float
    problem: str = ""  # it hung, or processes are left


def preload(folder: Path) -> None:
    """Start this program anew with the library preloaded, which is compiled into ``folder``."""
    library = folder / "shim.so"
    if str(library) in os.environ.get("LD_PRELOAD", ""):
        return
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)
    # Children of children (workers) get it as well, and are not struck.
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


class Launcher:
    """Forks processes from this one, which has imported what they need and has no threads.

    Parameters
    ----------
    scratch
        Folder for what processes print.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._number = 0

    def start(
        self,
        words: list[str],
        environment: Mapping[str, str],
        below: Path,
        fault: Fault = Fault(),
        before: Callable[[], None] = lambda: None,
    ) -> Running:
        """Start ``mvkit WORDS``."""
        self._number += 1
        prefix = self._scratch / f"process{self._number}"
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _run_command(words, environment, below, fault, before, prefix)
        return Running(child, prefix)

    def learn_modules(self, running: Running) -> None:
        """Import what a process had imported at its end."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in running.path("modules").read_text().split():
                # Parts of packages that cannot be imported alone are of no use here.
                if name.split(".")[0] not in ("__main__", "setuptools", "distutils", "pkg_resources"):
                    try:
                        importlib.import_module(name)
                    except Exception:
                        continue


class Running:
    """A process that was started."""

    def __init__(self, process: int, prefix: Path) -> None:
        self.process, self._prefix = process, prefix
        self._forked = time.monotonic()
        self._began: float | None = None

    def path(self, kind: str) -> Path:
        """Return the file of what the process printed, or noted at its end."""
        return self._prefix.with_suffix(f".{kind}")

    def wait(self, fault: Fault = Fault(), timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for the end, and for that of all processes that it started."""
        problem, sent = "", fault.after_s is None
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                break
            if self._began is None and self.path("began").exists():
                self._began = time.monotonic()
            elapsed = time.monotonic() - (self._began or self._forked)
            if not sent and self._began and elapsed >= (fault.after_s or 0.0):
                sent = True
                self._strike(fault)
            if elapsed > timeout_s:
                problem = f"hangs for {timeout_s:.0f} s"
                os.killpg(self.process, signal.SIGKILL)
            time.sleep(0.002)
        seconds = time.monotonic() - (self._began or self._forked)
        problem = problem or self._orphans()
        calls = self.path("calls")
        return Ended(
            os.waitstatus_to_exitcode(status),
            self.path("out").read_text(errors="replace"),
            self.path("err").read_text(errors="replace"),
            int(calls.read_text()) if calls.exists() else 0,
            seconds,
            problem,
        )

    def clear(self) -> None:
        """Remove what was written about the process."""
        for kind in ("out", "err", "began", "calls", "modules"):
            self.path(kind).unlink(missing_ok=True)

    def _strike(self, fault: Fault) -> None:
        # A terminal sends Ctrl-C to all, the out-of-memory killer picks one.
        if fault.mode == INTERRUPT:
            os.killpg(self.process, signal.SIGINT)
        else:
            os.kill(self.process, signal.SIGKILL)

    def _orphans(self) -> str:
        end = time.monotonic() + _ORPHANS_S
        while time.monotonic() < end:
            if not (left := _group(self.process)):
                return ""
            time.sleep(0.01)
        os.killpg(self.process, signal.SIGKILL)
        return f"its workers run on for {_ORPHANS_S:.0f} s: {left}"


def _group(group: int) -> list[str]:
    """Return the command lines of the processes of a group, without those that only wait to be reaped."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:200])
        except (OSError, ValueError):
            continue
    return found


def _run_command(
    words: list[str],
    environment: Mapping[str, str],
    below: Path,
    fault: Fault,
    before: Callable[[], None],
    prefix: Path,
) -> None:
    """Be the process."""
    code = 70
    try:
        os.setpgid(0, 0)
        for stream, kind in ((1, "out"), (2, "err")):
            descriptor = os.open(prefix.with_suffix(f".{kind}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, stream)
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, 0)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        warnings.simplefilter("default", UserWarning)
        sys.argv = ["mvkit", *words]
        before()
        import mvkit.cli.main

        shim = ctypes.CDLL(None)
        if fault.clock_shift_s or fault.clock_step_s:
            shim.fault_clock(ctypes.c_long(fault.clock_shift_s), ctypes.c_long(fault.clock_step_s))
        mode = COUNT if fault.after_s is not None else fault.mode
        shim.fault_arm(os.fsencode(below), mode, ctypes.c_long(fault.call), fault.number, int(fault.torn))
        prefix.with_suffix(".began").touch()
        try:
            mvkit.cli.main.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        prefix.with_suffix(".calls").write_text(str(shim.fault_calls()))
        if fault.mode == COUNT:
            prefix.with_suffix(".modules").write_text("\n".join(sys.modules))
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def remove(folder: Path) -> None:
    """Remove a folder, and what it was renamed to when it vanished."""
    for path in (folder, folder.with_name(f"{folder.name}.gone")):
        shutil.rmtree(path, ignore_errors=True)
