"""Where jobs run: in processes of this machine, or on a dask cluster."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from mvkit.errors import MissingPackageError, UsageError, WorkerError
from mvkit.naming import unknown_name
from mvkit.resources import Resources
from mvkit.scoring.processes import active_client

BACKENDS = ("local", "dask")

#: A scheduler that does not answer for this long is taken to be unreachable.
_PATIENCE_S = 5
#: Workers that have just been started may need this long to reach their scheduler.
_WORKERS_S = 10
#: What computes; other versions of it may give other bits.
_COMPUTING = ("mvkit", "numpy", "scipy", "numba")
#: Prepared layers are sent once each and may be large; dask need not say so every time.
_LARGEST_UNREMARKED = "8 GiB"


@contextmanager
def running_on(resources: Resources) -> Iterator[None]:
    """Run the jobs of the block where ``resources`` says, and leave nothing open afterwards.

    ``"local"`` changes nothing: jobs run in worker processes of this machine. ``"dask"`` connects to the
    scheduler and enters joblib's dask backend, which :mod:`mvkit.scoring.processes` follows. A block within
    one of the same scheduler shares its connection.

    Parameters
    ----------
    resources
        ``backend`` and ``scheduler`` are used.

    Raises
    ------
    UsageError
        If there is no such backend, the scheduler's address is missing or malformed, or one is given to a
        backend that has none.
    MissingPackageError
        If dask or distributed is not installed here.
    WorkerError
        If the scheduler cannot be reached, has no workers, or has some with other versions of what computes;
        later, if the cluster gives up on a job.
    """
    if resources.backend not in BACKENDS:
        raise unknown_name("backend", resources.backend, BACKENDS)
    if resources.backend == "local":
        if resources.scheduler is not None:
            raise UsageError(f"--scheduler {resources.scheduler}: goes with --backend dask only")
        yield
        return
    if resources.scheduler is None:
        raise UsageError("--backend dask: give the address of its scheduler too, --scheduler tcp://HOST:8786")
    try:
        import dask
        from distributed import CancelledError, KilledWorker
    except ImportError as error:
        raise MissingPackageError(
            f'--backend dask: dask is not installed here ({error})\npip install "mvkit[dask]"'
        ) from error
    from joblib import parallel_config

    around = active_client()
    if around is not None and around.scheduler.address == "{}://{}:{}".format(*_parts(resources.scheduler)):
        yield
        return
    quiet = {"distributed.admin.large-graph-warning-threshold": _LARGEST_UNREMARKED}
    with dask.config.set(quiet), _silent_client(), closing(_connected(resources.scheduler)) as client:
        _check_workers(client, resources.scheduler)
        try:
            with parallel_config(backend="dask", client=client):
                yield
        except KilledWorker as error:
            raise WorkerError(
                f"the dask cluster gave up on a job whose workers died one after the other ({error})\n"
                "perhaps of too little memory: fewer threads or a larger --memory-limit per worker; what was "
                "finished is kept unless --no-cache was given, and the same command goes on from there"
            ) from error
        except CancelledError as error:
            raise WorkerError(
                f"--scheduler {resources.scheduler}: the connection to the dask scheduler was lost\n"
                "start it again; what was finished is kept unless --no-cache was given, and the same command "
                "goes on from there"
            ) from error


@contextmanager
def _silent_client() -> Iterator[None]:
    """Keep dask's client from logging the traceback of a lost connection, which an error says in a line."""
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _connected(address: str) -> Any:
    """Connect to a scheduler; it is dialled first, because a client that fails does not close in silence."""
    from distributed import Client

    scheme, host, port = _parts(address)
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
        return Client(f"{scheme}://{host}:{port}", timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"--scheduler {address}: no dask scheduler answers there ({error})\n"
            "start one with 'dask scheduler'; it prints its address"
        ) from error


def _parts(address: str) -> tuple[str, str, int]:
    """Take an address apart into scheme, host and port."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        if parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and parts.path in ("", "/"):
            return parts.scheme, parts.hostname, parts.port
    except ValueError:
        # Not a number for a port, for instance; said below.
        pass
    raise UsageError(f"--scheduler {address}: not an address; it looks like tcp://HOST:8786")


def _check_workers(client: Any, address: str) -> None:
    """Refuse a cluster without workers, or whose workers might give other numbers."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS_S)
    except TimeoutError as error:
        raise WorkerError(
            f"--scheduler {address}: it has no workers\nstart some with 'dask worker {address}'"
        ) from error
    for package in _COMPUTING:
        here = _version_here(package)
        # By a function of Python's own, which workers have whatever else they lack.
        answers = client.run(metadata.version, package, on_error="return")
        for worker, found in answers.items():
            if found != here:
                there = "cannot be found" if isinstance(found, Exception) else f"is {found}"
                raise WorkerError(
                    f"{worker}: {package} {there} on this worker, and {here} here\n"
                    "give all workers the same environment as this machine, and start them again"
                )


def _version_here(package: str) -> str:
    return metadata.version(package)
