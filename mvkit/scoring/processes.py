"""Jobs done here or in worker processes, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mvkit.errors import UsageError

Result = TypeVar("Result")


def worker_count(n_jobs: int) -> int:
    """Return how many processes ``n_jobs`` means; -1 is one per core.

    Raises
    ------
    UsageError
        If it is 0.
    """
    from joblib import effective_n_jobs

    if n_jobs == 0:
        raise UsageError("n_jobs=0: give a number of worker processes, or -1 for one per core")
    return int(effective_n_jobs(n_jobs))


def by_place(
    function: Callable[..., Result],
    order: Sequence[int],
    arguments: Callable[[int], tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> dict[int, Result]:
    """Do one job per place in the order given, and return place -> result; others as :func:`in_order`.

    Parameters
    ----------
    arguments
        Place -> arguments of its job.
    progress
        Called with (done, total) jobs.
    """
    results = in_order(function, map(arguments, order), n_jobs=n_jobs, warm_up=warm_up)
    found = {}
    for done, (place, result) in enumerate(zip(order, results, strict=True), start=1):
        found[place] = result
        if progress is not None:
            progress(done, len(order))
    return found


def in_order(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
) -> Iterator[Result]:
    """Call a function with the arguments of each job and yield the results in the order of the jobs.

    Parameters
    ----------
    function
        A function of a module, so that workers find it.
    jobs
        Arguments.
    n_jobs
        Worker processes; with one, everything is done here.
    warm_up
        Called before workers start, so that they find compiled functions on disk and need not each compile.
    """
    if worker_count(n_jobs) == 1:
        for arguments in jobs:
            yield function(*arguments)
        return
    from joblib import Parallel, delayed

    warm_up()
    run = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator")
    yield from run(delayed(function)(*arguments) for arguments in jobs)
