"""Jobs done here, in worker processes or on a cluster, with the same results."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Timer
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from mvkit.errors import UsageError, WorkerError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Loading compiled fits takes less than this; compiling them takes more.
_SLOW_S = 2.0

#: Arguments smaller than this travel with their job; others are sent once for all jobs.
_SMALL_BYTES = 10_000


def worker_count(n_jobs: int) -> int:
    """Return how many jobs at a time ``n_jobs`` means; -1 is one per core, of the cluster where there is one.

    Raises
    ------
    UsageError
        If it is 0.
    """
    from joblib import effective_n_jobs

    if n_jobs == 0:
        raise UsageError("n_jobs=0: give a number of worker processes, or -1 for one per core")
    count = int(effective_n_jobs(n_jobs))
    # A cluster's backend always says how many cores it has.
    return min(n_jobs, count) if n_jobs > 0 else count


def by_place(
    function: Callable[..., Result],
    order: Sequence[int],
    arguments: Callable[[int], tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> dict[int, Result]:
    """Do one job per place, begun in the order given, and return place -> result.

    Other parameters and errors are those of :func:`as_finished`.

    Parameters
    ----------
    arguments
        Place -> arguments of its job.
    progress
        Called with (done, total) jobs.
    """
    found = {}
    for job, result in as_finished(function, map(arguments, order), n_jobs=n_jobs, warm_up=warm_up):
        found[order[job]] = result
        if progress is not None:
            progress(len(found), len(order))
    return found


def as_finished(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    """Call a function with the arguments of each job and yield (number of the job, result) as they come.

    So that each result can be kept at once: a slow job holds back none that is done.

    Parameters
    ----------
    function
        A function of a module, so that workers find it.
    jobs
        Arguments.
    n_jobs
        Jobs at a time: in worker processes, or on the cluster that joblib's ``parallel_config`` names. With
        one, everything is done here, unless there is a cluster.
    warm_up
        Called before jobs of this machine start, so that workers find compiled functions on disk and need
        not each compile; logged if it takes a while.

    Raises
    ------
    WorkerError
        If a worker process of this machine dies.
    """
    client = active_client()
    if client is not None:
        yield from _on_cluster(function, jobs, client, n_jobs)
    elif worker_count(n_jobs) == 1:
        _announced(warm_up)
        for number, arguments in enumerate(jobs):
            yield number, function(*arguments)
    else:
        _announced(warm_up)
        yield from _in_processes(function, jobs, n_jobs)


def _announced(warm_up: Callable[[], None]) -> None:
    slow = Timer(_SLOW_S, log.warning, ["compiling the fits for this machine (once, about 15 s)"])
    slow.daemon = True
    slow.start()
    try:
        warm_up()
    finally:
        slow.cancel()


def _in_processes(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], n_jobs: int
) -> Iterator[tuple[int, Result]]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    run = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator_unordered")
    try:
        yield from run(
            delayed(_numbered)(number, function, arguments) for number, arguments in enumerate(jobs)
        )
    except BrokenProcessPool as error:
        raise WorkerError(
            f"a worker process died, perhaps because memory ran out with {worker_count(n_jobs)} at a time\n"
            "give fewer with --jobs; what was finished is kept unless --no-cache was given, and the same "
            "command goes on from there"
        ) from error


def _numbered(number: int, function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[int, Result]:
    return number, function(*arguments)


def active_client() -> Any:
    """Return the client of the cluster that joblib's ``parallel_config`` names, or None."""
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return getattr(backend, "client", None)


def _on_cluster(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], client: Any, n_jobs: int
) -> Iterator[tuple[int, Result]]:
    """Do the jobs on a cluster, by its client: joblib would do them here where one core is left of it."""
    sending = _Sending(client)
    running: dict[Any, int] = {}
    for number, arguments in enumerate(jobs):
        if len(running) == n_jobs:
            yield from _finished(running, client)
        future = client.submit(_in_worker, function, sending.sent(list(arguments)), pure=False)
        running[future] = number
    while running:
        yield from _finished(running, client)


def _finished(running: dict[Any, int], client: Any) -> Iterator[tuple[int, Any]]:
    """Wait for a job, and yield and forget all that are done."""
    from distributed import wait

    with client.as_current():
        done = wait(list(running), return_when="FIRST_COMPLETED").done
    for future in done:
        yield running.pop(future), future.result()


def _in_worker(function: Callable[..., Result], arguments: list[Any]) -> Result:
    """Do a job in a thread of a cluster's worker."""
    # For good: jobs of other threads would otherwise see the limit come and go, and with it other bits.
    threadpool_limits(limits=1)
    return function(*arguments)


class _Sending:
    """Sends large arguments to a cluster once, and not with every job that needs them.

    They become results of tasks of their own, so that the cluster makes them again if a worker that holds
    them dies; what is sent ahead by ``scatter`` would be lost with the worker.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # By identity; the values are held so that no other can take their place.
        self._known: dict[int, tuple[Any, Any]] = {}

    def sent(self, value: Any) -> Any:
        """Return what goes to a worker in place of a value; lists and tuples element by element."""
        if type(value) in (list, tuple):
            return type(value)(self.sent(element) for element in value)
        if id(value) not in self._known:
            packed = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            large = len(packed) > _SMALL_BYTES
            stand_in = self._client.submit(pickle.loads, packed, pure=False) if large else value
            self._known[id(value)] = value, stand_in
        return self._known[id(value)][1]
