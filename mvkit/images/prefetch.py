"""Batches filled by threads ahead of the consumer, in exactly the order that was asked for."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images.batch import RawBatch

#: Images a thread fills at a time: small enough that leaving early does not have to wait.
PIECE = 32
#: Images and batches that are under way ahead of the consumer, at least.
AHEAD_IMAGES, AHEAD_BATCHES = 64, 2
#: A batch that has not come by then never will (a dead file server): better an error than silence.
STALLED_S = 600.0


class Filling(Protocol):
    """A batch being filled: its rows may be filled by several threads at once, each its own."""

    def fill(self, first: int, last: int) -> None:
        """Fill rows ``first`` to ``last`` (excluded)."""

    def finished(self) -> RawBatch:
        """Return the batch once all rows are filled."""


def usable_workers(workers: int) -> int:
    """Return ``workers``, at least 0 and at most the cores that this process may use."""
    return max(0, min(workers, len(os.sched_getaffinity(0))))


class BatchStream(Iterator[RawBatch]):
    """An iterator of batches that threads fill ahead; a context manager that ends them.

    Parameters
    ----------
    start
        Makes an empty batch for an index array.
    plan
        One index array, int64 (n,), for every batch.
    workers
        Threads; 0 fills in the consumer's own. Capped at the cores of this process.
    stalled_s
        Seconds after which a batch that does not come is an error.

    Attributes
    ----------
    seconds_waited
        How long the consumer has waited for batches so far: near 0 where computing is the bottleneck.

    Raises
    ------
    DataError
        From ``next``: whatever a thread raised, or that a batch did not come in time.
    """

    def __init__(
        self,
        start: Callable[[NDArray[np.int64]], Filling],
        plan: Sequence[NDArray[np.int64]],
        *,
        workers: int,
        stalled_s: float = STALLED_S,
    ) -> None:
        self.seconds_waited = 0.0
        self._start, self._plan, self._stalled_s = start, plan, stalled_s
        self._workers = usable_workers(workers)
        self._next = 0
        self._gave_up = False
        self._pending: deque[tuple[Filling, list[Future[None]], int]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> RawBatch:
        began = time.perf_counter()
        try:
            batch = self._filled() if self._workers else self._filled_here()
        except BaseException:
            # An iterator that failed is finished; nothing must go on behind the error's back.
            self.close()
            raise
        self.seconds_waited += time.perf_counter() - began
        return batch

    def close(self) -> None:
        """Drop what is under way and end the threads; can be called more than once."""
        self._next = len(self._plan)
        pool, self._pool = self._pool, None
        stuck = any(future.running() for _, futures, _ in self._pending for future in futures)
        self._pending.clear()
        if pool is not None:
            pool.shutdown(wait=not (stuck and self._gave_up), cancel_futures=True)

    def _filled_here(self) -> RawBatch:
        if self._next >= len(self._plan):
            raise StopIteration
        indices = self._plan[self._next]
        self._next += 1
        filling = self._start(indices)
        filling.fill(0, len(indices))
        return filling.finished()

    def _filled(self) -> RawBatch:
        self._submit()
        if not self._pending:
            raise StopIteration
        filling, futures, _ = self._pending[0]
        deadline = time.monotonic() + self._stalled_s
        for future in futures:
            try:
                future.result(timeout=max(0.0, deadline - time.monotonic()))
            except FutureTimeoutError:
                self._gave_up = True
                raise DataError(
                    f"no batch within {self._stalled_s:g} s: reading images hangs\n"
                    "check the disk or network drive that holds them"
                ) from None
        self._pending.popleft()
        self._submit()
        return filling.finished()

    def _submit(self) -> None:
        """Keep enough batches under way."""
        while self._next < len(self._plan) and (
            len(self._pending) < AHEAD_BATCHES or sum(size for _, _, size in self._pending) < AHEAD_IMAGES
        ):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="mvkit-images")
            indices = self._plan[self._next]
            self._next += 1
            filling, size = self._start(indices), len(indices)
            step = max(1, min(PIECE, -(-size // self._workers)))
            pieces = [(first, min(first + step, size)) for first in range(0, size, step)]
            futures = [self._pool.submit(filling.fill, *piece) for piece in pieces]
            self._pending.append((filling, futures, size))
