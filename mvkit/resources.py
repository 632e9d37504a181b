"""Where and with what a run is carried out: nothing here changes what is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """Processes, device, memory and disk of a run; None means the default.

    Attributes
    ----------
    n_jobs
        Worker processes; None: one per core (of the cluster, with ``dask``).
    device
        Where features are taken and their inner products formed: "cpu", "cuda", "cuda:1", ...
    batch_size
        Images per forward pass; None: so many that a batch has about as many pixels whatever their size.
        Another number changes features by float32 rounding.
    home
        mvkit's home directory.
    scratch
        Folder for features that do not fit in memory; None: ``scratch`` in mvkit's cache.
    cache
        Whether cached results are used, and new ones cached.
    dask
        Address of the scheduler of the dask cluster on which jobs run; None: in processes of this machine.
    """

    n_jobs: int | None = None
    device: str = "cpu"
    batch_size: int | None = None
    home: Path | None = None
    scratch: Path | None = None
    cache: bool = True
    dask: str | None = None


def worker_number(resources: Resources) -> int:
    """Return the worker processes of a run: by default one per core, of this machine or the cluster (-1)."""
    return resources.n_jobs or (available_cores() if resources.dask is None else -1)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
