"""Run a reader on one hostile input: what it may do, how long it may take, and what it may use."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: User time of one input, and memory above what the process had before the first one.
MOST_S = 1.0
MOST_BYTES = 512 << 20

_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
    "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.mkdir",
    "os.putenv", "os.unsetenv", "pty.spawn", "shutil.rmtree", "shutil.move", "shutil.copyfile",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request",
    "ctypes.dlopen", "pickle.find_class", "marshal.loads", "exec", "code.__new__", "webbrowser.open",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooSlow(BaseException):
    """An input took more than :data:`MOST_S`; no ``except Exception`` may hide it."""


class FindingError(Exception):
    """A reader did something with an input that it must not do; ``key`` is the same for the same cause."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(what)
        self.key = key


class Sandbox:
    """Watches a process while it reads.

    Parameters
    ----------
    folder
        Where inputs lie, and the only place where readers may write.
    may_import
        Packages whose parts may still be imported while an input is read.
    most_s
        User time of one input.
    runs_code
        Whether compiling, running and importing code is let through.
    """

    def __init__(
        self,
        folder: Path,
        may_import: tuple[str, ...] = (),
        *,
        most_s: float = MOST_S,
        runs_code: bool = False,
    ) -> None:
        self.folder = str(folder)
        self.most_s = most_s
        self._runs_code = runs_code
        self._roots = ("mvkit", "encodings", "faulthandler", *may_import)
        self._events: list[str] = []
        self._is_on = False
        self._importing = 0
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGVTALRM, self._interrupt)

    def run(self, reader: Callable[[], object], allowed: type[Exception]) -> str:
        """Return "value", or the name of the allowed error that ``reader`` raised.

        Raises
        ------
        FindingError
            For any other error, and for what no reader may do.
        """
        self._events.clear()
        outcome = "value"
        problem: BaseException | None = None
        try:
            with self.watched():
                reader()
        except allowed as error:
            outcome = type(error).__name__
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = error
        except BaseException as error:  # noqa: BLE001
            problem = error
        if self._events:
            raise FindingError(f"forbidden: {self._events[0]}", self._events[0][:40])
        if problem is not None:
            where = traceback.extract_tb(problem.__traceback__)
            own = [frame for frame in where if "/mvkit/" in frame.filename] or where
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
            name = type(problem).__name__
            raise FindingError(f"{name} at {place}: {str(problem)[:200]}", f"{name} at {place}") from problem
        return outcome

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Forbid what no reader needs, and raise :class:`TooSlow` in time, for the length of a block."""
        signal.setitimer(signal.ITIMER_VIRTUAL, self.most_s, self.most_s)
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _interrupt(self, *_: object) -> None:
        if self._is_on:
            raise TooSlow(f"more than {self.most_s} s")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING or str(path).startswith(self.folder):
                return
            event = f"open {path} for writing"
        elif event == "import":
            if self._runs_code or arguments[0].partition(".")[0] in self._roots:
                return
            event = f"import {arguments[0]}"
        elif (
            event not in _FORBIDDEN
            or (event.startswith(("os.", "shutil.")) and self.folder in str(arguments))
            or (
                event
                in (
                    "exec",
                    "marshal.loads",
                    "code.__new__",
                    "ctypes.dlopen",
                    "os.putenv",
                    "os.unsetenv",
                )
                and (self._runs_code or self._in_import())
            )
        ):
            return
        self._events.append(event)
        raise RuntimeError(f"the sandbox forbids {event}")

    @staticmethod
    def _in_import() -> bool:
        """Whether this is the import system at work on a module that was let through."""
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return True
            frame = frame.f_back  # type: ignore[assignment]
        return False


def limit_memory(n_bytes: int = MOST_BYTES) -> None:
    """Let this process have at most so much memory more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
