"""Batches filled ahead by threads: order, errors, leaving early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvkit.errors import DataError
from mvkit.images.loader import BatchStream, Fillable, usable_workers
from mvkit.images.settings import RawBatch


class _Slow:
    """Rows that take longer the earlier their batch is, so that later ones are ready first."""

    def __init__(self, index: NDArray[np.int64], fail_at: int, filled: list[int]) -> None:
        self._index, self._fail_at, self._all = index, fail_at, filled
        self._filled = np.zeros(len(index), np.int64)

    def fill(self, first: int, last: int) -> None:
        for row in range(first, last):
            number = int(self._index[row])
            if number == self._fail_at:
                raise DataError(f"image {number} is broken")
            time.sleep(0.002 if number % 3 == 0 else 0.0)
            self._filled[row] = number * 10
            self._all.append(number)

    def batch(self) -> RawBatch:
        return RawBatch(crops=(torch.from_numpy(self._filled),), index=torch.from_numpy(self._index))


def _start(fail_at: int = -1) -> tuple[Callable[[NDArray[np.int64]], Fillable], list[int]]:
    filled: list[int] = []
    return lambda index: _Slow(index, fail_at, filled), filled


def _threads() -> int:
    return sum(thread.name.startswith("mvkit-images") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_as_planned(workers: int) -> None:
    rng = np.random.default_rng(0)
    plan = [rng.integers(0, 100, size) for size in (5, 1, 70, 3, 2, 40)]
    start, _ = _start()
    with BatchStream(start, plan, workers=workers) as stream:
        batches = list(stream)
    assert [batch.index.tolist() for batch in batches] == [index.tolist() for index in plan]
    assert [batch.crops[0].tolist() for batch in batches] == [(10 * index).tolist() for index in plan]
    assert stream.seconds_waited > 0
    assert _threads() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_thread_arrives_with_its_batch(workers: int) -> None:
    plan = [np.arange(4), np.arange(4, 8), np.arange(8, 12)]
    start, _ = _start(fail_at=5)
    with BatchStream(start, plan, workers=workers) as stream:
        assert next(stream).index.tolist() == [0, 1, 2, 3]
        with pytest.raises(DataError, match="image 5 is broken"):
            next(stream)
        assert list(stream) == []
    assert _threads() == 0


def test_leaving_early_ends_the_threads_and_the_work() -> None:
    start, filled = _start()
    plan = [np.full(64, 3 * number) for number in range(100)]
    with BatchStream(start, plan, workers=2) as stream:
        next(stream)
    assert _threads() == 0
    n_filled = len(filled)
    time.sleep(0.02)
    assert len(filled) == n_filled < 6 * 64
    assert list(stream) == []


def test_threads_read_ahead_of_the_consumer_but_not_far() -> None:
    start, filled = _start()
    plan = [np.full(40, 1) for _ in range(50)]
    with BatchStream(start, plan, workers=1) as stream:
        next(stream)
        deadline = time.monotonic() + 20
        while len(filled) < 120 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(filled) == 120  # the batch that was taken, and two


def test_a_batch_that_never_comes_is_an_error() -> None:
    release = threading.Event()

    class Stuck(_Slow):
        def fill(self, first: int, last: int) -> None:
            release.wait(30)

    with (
        BatchStream(lambda index: Stuck(index, -1, []), [np.arange(3)], workers=1, stalled_s=0.05) as stream,
        pytest.raises(DataError, match=r"no batch within 0\.05 s"),
    ):
        next(stream)
    release.set()


def test_workers_are_capped_at_the_cores() -> None:
    assert usable_workers(-1) == 0
    assert usable_workers(1) == 1
    assert 1 <= usable_workers(10_000) < 10_000
