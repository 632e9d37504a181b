"""How fast training goes, when it will be done, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

Item = TypeVar("Item")
Side = Literal["loader", "compute"]

#: Share of an older estimate that a new measurement leaves of it.
_MEMORY = 0.9


@dataclass(frozen=True)
class Pace:
    """A moment of training, for whoever watches.

    Attributes
    ----------
    step, n_steps, epoch, n_epochs
        Finished steps of all, epoch in progress (from 1) of all.
    loss
        Of the last step that was read.
    images_per_s
        Images of all processes.
    eta_s
        Seconds until all steps are done, at this pace.
    waiting
        Fraction of the time spent waiting for images and views.
    """

    step: int
    n_steps: int
    epoch: int
    n_epochs: int
    loss: float
    images_per_s: float
    eta_s: float
    waiting: float

    @property
    def bottleneck(self) -> Side:
        """Which side would have to become faster first."""
        return "loader" if self.waiting > 0.5 else "compute"


#: Called with the pace as training proceeds.
Watcher = Callable[[Pace], None]


class Stopwatch:
    """Measures windows of steps: how long they took, how much of it was waiting.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._waited_s = 0.0
        self._images = 0
        self.images_per_s = 0.0
        self.waiting = 0.0

    def waits_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on; the time until each arrives counts as waiting."""
        iterator = iter(items)
        while True:
            began = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited_s += self._clock() - began
            yield item

    def add(self, n_images: int) -> None:
        """Count images that a step learned from."""
        self._images += n_images

    def close_window(self) -> None:
        """Take everything since the last call into the running averages."""
        now = self._clock()
        elapsed = max(now - self._started, 1e-9)
        memory = _MEMORY if self.images_per_s else 0.0
        self.images_per_s = memory * self.images_per_s + (1 - memory) * self._images / elapsed
        self.waiting = memory * self.waiting + (1 - memory) * self._waited_s / elapsed
        self.restart()

    def restart(self) -> None:
        """Begin a new window now: what went on before (an evaluation) does not count."""
        self._started, self._waited_s, self._images = self._clock(), 0.0, 0
