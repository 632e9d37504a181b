"""Jobs in processes of this machine (joblib's loky) or on a dask cluster, with the same results."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import metadata
from threading import Timer
from typing import Any, TypeVar
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from mvkit.display import quiet_logger
from mvkit.errors import MissingPackageError, UsageError, WorkerError, wording
from mvkit.machine import SharedContext, available_cores, end_with_parent, is_worker_process, safe_child_path

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Loading compiled fits takes less than this; compiling them takes more.
_SLOW_S = 2.0

#: Arguments smaller than this travel with their job; others are sent to a cluster once for all jobs.
_SMALL_BYTES = 10_000

#: A scheduler that does not answer for this long is taken to be unreachable.
_CONNECT_S = 5
#: Workers that have just been started may need this long to reach their scheduler.
_WORKERS_S = 10
#: Packages of which other versions may give other bits.
_COMPUTING = ("mvkit-neuro", "numpy", "scipy", "numba")
#: Prepared layers are sent once each and may be large; dask need not say so every time.
_LARGE_GRAPH = "8 GiB"


def _dask_option() -> str:
    return wording("--dask", "resources.dask")


def _resume_advice() -> str:
    return wording(
        "what was finished is kept unless --no-cache was given, and the same command goes on from there",
        "what was finished is kept unless cache=False was given, and the same call goes on from there",
    )


_ONE_BLAS_THREAD = SharedContext(lambda: threadpool_limits(limits=1, user_api="blas"))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute with one thread, so that bits do not depend on the machine or on scores of other threads.

    BLAS counts threads for the whole process, OpenMP for each thread that calls it.
    """
    with _ONE_BLAS_THREAD, threadpool_limits(limits=1, user_api="openmp"):
        yield


def run_jobs(
    function: Callable[..., Result],
    jobs: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    """Call a function with the arguments of each job and yield (index of the job, result) as they complete.

    So that each result can be cached at once: a slow job holds back none that is done.

    Parameters
    ----------
    function
        A function of a module, so that workers find it.
    jobs
        Arguments.
    n_jobs
        Jobs at a time: in worker processes, or on the cluster of :func:`dask_cluster`. With one, everything
        is done here, unless there is a cluster.
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
        yield from _run_on_cluster(function, jobs, client, n_jobs)
        return
    _warm_up(warm_up)
    n_workers = worker_count(n_jobs)
    if n_workers == 1:
        for index, arguments in enumerate(jobs):
            yield index, function(*arguments)
    else:
        yield from _run_in_processes(function, jobs, n_workers)


def run_jobs_by_index(
    function: Callable[..., Result],
    order: Sequence[int],
    arguments: Callable[[int], tuple[Any, ...]],
    *,
    n_jobs: int,
    warm_up: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> dict[int, Result]:
    """Do one job per index, begun in the order given, and return index -> result.

    Other parameters and errors are those of :func:`run_jobs`.

    Parameters
    ----------
    arguments
        Index -> arguments of its job.
    progress
        Called with (done, total) jobs.
    """
    results = {}
    for job, result in run_jobs(function, map(arguments, order), n_jobs=n_jobs, warm_up=warm_up):
        results[order[job]] = result
        if progress is not None:
            progress(len(results), len(order))
    return results


def worker_count(n_jobs: int) -> int:
    """Return how many jobs at a time ``n_jobs`` means; -1 is one per core, of the cluster where there is one.

    One in a process or thread that is itself a worker of a pool, see :func:`mvkit.machine.is_worker_process`.

    Raises
    ------
    UsageError
        If it is 0.
    """
    from joblib import effective_n_jobs
    from joblib.parallel import get_active_backend

    if n_jobs == 0:
        raise UsageError("n_jobs=0: give a number of worker processes, or -1 for one per core")
    is_here = active_client() is None
    if is_here and (is_worker_process() or (get_active_backend()[0].nesting_level or 0) > 0):
        return 1
    count = int(effective_n_jobs(n_jobs))
    if n_jobs > 0:
        # A cluster's backend always says how many cores it has.
        return min(n_jobs, count)
    return max(1, min(count, available_cores() + 1 + n_jobs)) if is_here else count


def _warm_up(warm_up: Callable[[], None]) -> None:
    slow = Timer(_SLOW_S, log.warning, ["compiling the fits for this machine (once, about 15 s)"])
    slow.daemon = True
    slow.start()
    try:
        warm_up()
    finally:
        slow.cancel()


def _run_in_processes(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], n_workers: int
) -> Iterator[tuple[int, Result]]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    # Begun as soon as a worker runs: without a job it would wait for one, whatever became of this process.
    watch = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    run = Parallel(n_jobs=n_workers, backend="loky", return_as="generator_unordered", **watch)
    try:
        with safe_child_path:
            yield from run(
                delayed(_call_with_index)(index, function, arguments) for index, arguments in enumerate(jobs)
            )
    except BrokenProcessPool as error:
        if isinstance(error, TerminatedWorkerError):
            raise WorkerError(
                f"a worker process died, perhaps because memory ran out with {n_workers} at a time\n"
                f"give fewer with {wording('--jobs', 'n_jobs=')}; {_resume_advice()}"
            ) from error
        raise WorkerError(
            f"a worker process could not begin its job ({error.__cause__ or error})\n"
            f"do without worker processes with {wording('--jobs 1', 'n_jobs=1')}; {_resume_advice()}"
        ) from error


def _call_with_index(
    index: int, function: Callable[..., Result], arguments: tuple[Any, ...]
) -> tuple[int, Result]:
    return index, function(*arguments)


def active_client() -> Any:
    """Return the client of the cluster that joblib's ``parallel_config`` names, or None."""
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return getattr(backend, "client", None)


def _run_on_cluster(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], client: Any, n_jobs: int
) -> Iterator[tuple[int, Result]]:
    """Submit jobs by the client itself.

    joblib's dask backend takes no notice of ``n_jobs``, sends the layers of a job anew with every job, and
    does everything in this process where the cluster has one core.
    """
    from distributed import as_completed

    # By identity; values are held so that no other can take their place.
    substitutes: dict[int, tuple[Any, Any]] = {}

    def substitute(value: Any) -> Any:
        """Return what is sent in place of a value; lists and tuples element by element.

        A large value becomes the result of a task of its own: it is sent once, and the cluster makes it again
        if a worker that holds it dies, which ``scatter`` does not.
        """
        if type(value) in (list, tuple):
            return type(value)(map(substitute, value))
        if id(value) not in substitutes:
            pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            is_large = len(pickled) > _SMALL_BYTES
            sent = client.submit(pickle.loads, pickled, pure=False) if is_large else value
            substitutes[id(value)] = value, sent
        return substitutes[id(value)][1]

    completed = as_completed(loop=client.loop)
    indices: dict[Any, int] = {}
    for index, arguments in enumerate(jobs):
        if len(indices) == n_jobs:
            future = next(completed)
            yield indices.pop(future), future.result()
        future = client.submit(_call_in_worker, function, substitute(list(arguments)), pure=False)
        indices[future] = index
        completed.add(future)
    for future in completed:
        yield indices.pop(future), future.result()


def _call_in_worker(function: Callable[..., Result], arguments: list[Any]) -> Result:
    """Do a job in a thread of a cluster's worker."""
    # For good: jobs of other threads would otherwise see the limit come and go, and with it other bits.
    threadpool_limits(limits=1)
    return function(*arguments)


@contextmanager
def dask_cluster(address: str | None) -> Iterator[None]:
    """Run the jobs of the block on a dask cluster, and leave nothing open afterwards.

    The connection is entered as joblib's dask backend, which :func:`run_jobs` follows. A block within one of
    the same scheduler shares its connection.

    Parameters
    ----------
    address
        Of the cluster's scheduler; None changes nothing: jobs run in processes of this machine.

    Raises
    ------
    UsageError
        If the address is malformed.
    MissingPackageError
        If dask or distributed is not installed here.
    WorkerError
        If the scheduler cannot be reached, has no workers, or has some with other versions of what computes;
        later, if the cluster gives up on a job.
    """
    if address is None:
        yield
        return
    url = _parse_address(address)
    try:
        import dask
        from distributed import CancelledError, KilledWorker
    except ImportError as error:
        raise MissingPackageError(
            f"{_dask_option()}: dask is not installed here ({error})\nrun: pip install dask distributed"
        ) from error
    from joblib import parallel_config

    outer = active_client()
    if outer is not None and outer.scheduler.address == url:
        yield
        return
    quiet = {"distributed.admin.large-graph-warning-threshold": _LARGE_GRAPH}
    # The client would log the traceback of a lost connection, which an error says in a line.
    silence = quiet_logger("distributed.client", logging.CRITICAL)
    with dask.config.set(quiet), silence, closing(_connect(url)) as client:
        _check_workers(client, address)
        try:
            with parallel_config(backend="dask", client=client):
                yield
        except KilledWorker as error:
            raise WorkerError(
                f"the dask cluster gave up on a job whose workers died one after the other ({error})\n"
                "perhaps of too little memory: fewer threads or more memory (dask's own --memory-limit) per "
                "worker; "
                f"{_resume_advice()}"
            ) from error
        except CancelledError as error:
            raise WorkerError(
                f"{_dask_option()} {address}: the connection to the dask scheduler was lost\nstart it again; "
                + _resume_advice()
            ) from error


def _parse_address(address: str) -> str:
    """Return an address in full: ``head:8786`` is ``tcp://head:8786``."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        if parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and parts.path in ("", "/"):
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"{parts.scheme}://{host}:{parts.port}"
    except ValueError:
        # Not a number for a port, for instance; refused below.
        pass
    raise UsageError(f"{_dask_option()} {address}: not an address; it looks like tcp://HOST:8786")


def _connect(url: str) -> Any:
    """Connect to a scheduler; a socket is opened first, as a client that fails does not close in silence."""
    from distributed import Client

    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_CONNECT_S).close()
        return Client(url, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{_dask_option()} {url}: no dask scheduler answers there ({error})\n"
            "start one with 'dask scheduler'; it prints its address"
        ) from error


def _check_workers(client: Any, address: str) -> None:
    """Refuse a cluster without workers, or whose workers might give other numbers."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except TimeoutError as error:
        raise WorkerError(
            f"{_dask_option()} {address}: it has no workers\nstart some with 'dask worker {address}'"
        ) from error
    for package in _COMPUTING:
        here = _version_here(package)
        # By a function of Python's own, which workers have whatever else they lack.
        answers = client.run(metadata.version, package, on_error="return")
        for worker, version in answers.items():
            if version != here:
                there = "cannot be found" if isinstance(version, Exception) else f"is {version}"
                raise WorkerError(
                    f"{worker}: {package} {there} on this worker, and {here} here\n"
                    "give all workers the same environment as this machine, and start them again"
                )


def _version_here(package: str) -> str:
    return metadata.version(package)
