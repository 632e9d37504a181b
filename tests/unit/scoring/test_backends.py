"""Where jobs run: what is refused."""

from __future__ import annotations

import socket
import sys

import pytest

from mvkit.errors import MissingPackageError, UsageError, WorkerError
from mvkit.resources import Resources
from mvkit.scoring.backends import running_on
from mvkit.scoring.processes import as_finished


def refuse(resources: Resources, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), running_on(resources):
        pytest.fail("was not refused")


def test_local_runs_leave_joblib_as_it_is() -> None:
    with running_on(Resources()):
        assert list(as_finished(abs, [(-1,), (2,)], n_jobs=1, warm_up=list)) == [(0, 1), (1, 2)]


def test_an_unknown_backend_is_refused() -> None:
    refuse(
        Resources(backend="dusk"),
        UsageError,
        "unknown backend 'dusk'; did you mean 'dask'\\?\nvalid: local, dask",
    )


def test_backend_and_scheduler_go_together() -> None:
    refuse(Resources(backend="dask"), UsageError, "--backend dask: give the address of its scheduler too")
    refuse(
        Resources(scheduler="tcp://a:1"), UsageError, "--scheduler tcp://a:1: goes with --backend dask only"
    )


@pytest.mark.parametrize(
    "address", ["", "head", "tcp://head", "tcp://head:x", "http://head:1", ":8786", "tcp://h:1/x"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    pytest.importorskip("distributed")
    refuse(Resources(backend="dask", scheduler=address), UsageError, f"--scheduler {address}: not an address")


def test_a_scheduler_that_is_not_there_is_named() -> None:
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        # Bound and not listening: nobody else takes it, and nobody answers.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refuse(
            Resources(backend="dask", scheduler=address), WorkerError, f"{address}: no dask scheduler answers"
        )


def test_dask_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    resources = Resources(backend="dask", scheduler="tcp://127.0.0.1:1")
    refuse(resources, MissingPackageError, r'pip install "mvkit\[dask\]"')
