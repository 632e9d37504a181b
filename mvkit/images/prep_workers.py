"""Encode images in several processes, results in the order of the items.

FFCV's own writer hangs for ever when a worker fails and leaves its workers
behind when it is killed. Here an image that fails is a result like any other,
a worker that dies ends the run with an error, and workers end with the
process that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Final

from mvkit.errors import DataError
from mvkit.images.beton_write import Encoded
from mvkit.images.prep_encode import Encoding, Unreadable, encode
from mvkit.images.sources.base import Item

#: Images that a worker gets at once, and chunks per worker that may wait for the writer.
CHUNK: Final = 16
_AHEAD: Final = 4

Result = Encoded | Unreadable


def encode_all(items: Iterable[Item], how: Encoding, *, workers: int) -> Generator[Result, None, None]:
    """Encode items; results come in the items' order whatever ``workers`` is.

    Close the iterator to end early: waiting work is dropped and the workers end.

    Parameters
    ----------
    items
        What to read.
    how
        How to store it.
    workers
        Processes; with 1 the work is done in this one.

    Raises
    ------
    DataError
        If a worker dies.
    """
    if workers <= 1:
        for item in items:
            yield encode(item, how)
        return
    # Fresh processes: a fork of one with running threads (torch, numba) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield from _in_order(pool, iter(items), how, workers * _AHEAD)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while images were read (often for lack of memory); "
            "nothing was written; try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, items: Iterator[Item], how: Encoding, n_ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[list[Result]]] = deque()
    while True:
        while len(waiting) < n_ahead and (chunk := list(islice(items, CHUNK))):
            # Submitting may start a worker, which an interruption would leave half-started and complaining.
            with _interruption_deferred():
                waiting.append(pool.submit(_encode_chunk, chunk, how))
        if not waiting:
            return
        yield from waiting.popleft().result()


@contextmanager
def _interruption_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block (in the main thread, where alone it arrives)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _encode_chunk(items: list[Item], how: Encoding) -> list[Result]:
    return [encode(item, how) for item in items]


def _begin_worker() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
