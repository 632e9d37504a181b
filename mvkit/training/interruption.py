"""SIGTERM and Ctrl-C: noted first, so that the step in progress is finished and saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import torch

from mvkit.distributed import all_reduce, world_size

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first signal is only noted; a second Ctrl-C interrupts at once.

    Handlers can be set in the main thread only; in others nothing is changed.

    Parameters
    ----------
    remark
        Told once that a signal came.
    """

    def __init__(self, remark: Callable[[str], None]) -> None:
        self._remark = remark
        self._noted = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        """Take over the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def came(self) -> bool:
        """Whether to stop; the same answer on all processes, of which perhaps only one was told."""
        if world_size() == 1:
            return self._noted
        # On the CPU, whatever trains: asking must not wait for a GPU.
        return bool(all_reduce(torch.tensor([float(self._noted)])) > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._noted:
            self._noted = True
            self._remark("stopping after this step (Ctrl-C again: at once, losing the steps since last.pt)")
