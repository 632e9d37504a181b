"""Jobs here, in worker processes, and what is refused of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from os.path import commonprefix
from pathlib import Path
from threading import Timer

import pytest

from mvkit.errors import MissingPackageError, UsageError, WorkerError
from mvkit.scoring import parallel
from mvkit.scoring.parallel import dask_cluster, run_jobs, worker_count


def test_none_is_refused() -> None:
    with pytest.raises(UsageError, match="n_jobs=0"):
        worker_count(0)


def test_numbers_are_taken_as_they_are() -> None:
    assert worker_count(3) == 3
    assert worker_count(-1) >= 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_with_the_numbers_of_their_jobs(n_jobs: int) -> None:
    warmed: list[bool] = []
    jobs = [([f"{number}{number}a", f"{number}{number}b"],) for number in range(5)]
    found = run_jobs(commonprefix, jobs, n_jobs=n_jobs, warm_up=lambda: warmed.append(True))
    assert sorted(found) == list(enumerate(["00", "11", "22", "33", "44"]))
    assert warmed == [True]


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 1), (0.0, 0)])
def test_only_a_slow_compilation_is_announced(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parallel, "_SLOW_S", 0.2)
    list(run_jobs(abs, [(-1,)], n_jobs=1, warm_up=lambda: time.sleep(seconds)))
    time.sleep(0.3)
    assert [record.message for record in caplog.records].count(
        "compiling the fits for this machine (once, about 15 s)"
    ) == expected


def test_a_worker_that_dies_is_an_error_of_two_lines() -> None:
    jobs = [(3,), (4,)]
    with pytest.raises(WorkerError, match=r"a worker process died.*\ngive fewer with n_jobs=") as caught:
        list(run_jobs(os._exit, jobs, n_jobs=2, warm_up=list))
    assert len(str(caught.value).splitlines()) == 2
    # What comes next finds workers again.
    found = run_jobs(abs, [(-1,), (-2,), (-3,)], n_jobs=2, warm_up=list)
    assert sorted(found) == [(0, 1), (1, 2), (2, 3)]


def test_a_slow_job_holds_back_none_that_is_done(tmp_path: Path) -> None:
    slow, quick = tmp_path / "slow", tmp_path / "quick"
    quick.write_text("done")
    # Whoever reads it waits until somebody has written.
    os.mkfifo(slow)
    late = Timer(60, slow.write_text, ["too late"])
    late.start()
    found = run_jobs(Path.read_text, [(slow,), (quick,), (quick,), (quick,)], n_jobs=2, warm_up=list)
    first = sorted(next(found) for _ in range(3))
    late.cancel()
    assert first == [(1, "done"), (2, "done"), (3, "done")]
    slow.write_text("now")
    assert list(found) == [(0, "now")]


def refuse(address: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), dask_cluster(address):
        pytest.fail("was not refused")


def test_without_an_address_joblib_stays_as_it_is() -> None:
    with dask_cluster(None):
        assert list(run_jobs(abs, [(-1,), (2,)], n_jobs=1, warm_up=list)) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    "address", ["", "head", "tcp://head", "tcp://head:x", "http://head:1", ":8786", "tcp://h:1/x"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    refuse(address, UsageError, f"resources.dask {address}: not an address")


def test_a_scheduler_that_is_not_there_is_named() -> None:
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        # Bound and not listening: nobody else takes it, and nobody answers.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refuse(address, WorkerError, f"{address}: no dask scheduler answers")


def test_dask_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    refuse("tcp://127.0.0.1:1", MissingPackageError, "run: pip install dask distributed")


def test_workers_of_pools_start_no_workers() -> None:
    from joblib import Parallel, delayed

    assert worker_count(3) == 3
    assert Parallel(n_jobs=2, backend="threading")(delayed(worker_count)(3) for _ in range(2)) == [1, 1]
    assert Parallel(n_jobs=2)(delayed(worker_count)(-1) for _ in range(2)) == [1, 1]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(worker_count, [3, -1]) == [1, 1]


def test_one_per_core_is_no_more_than_a_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cores", lambda: 1)
    assert [worker_count(-1), worker_count(-2), worker_count(2)] == [1, 1, 2]


def test_workers_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblib.externals.loky import get_reusable_executor

    for name in ("signal", "queue", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    get_reusable_executor().shutdown(wait=True)
    try:
        results = dict(run_jobs(abs, [(-1,), (-2,)], n_jobs=2, warm_up=lambda: None))
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert results == {0: 1, 1: 2}
    assert "PYTHONSAFEPATH" not in os.environ


_JOBS = """
import subprocess
from mvkit.scoring.parallel import run_jobs
jobs = [(["sleep", "60"],)] * 2
for _ in run_jobs(subprocess.call, jobs, n_jobs=2, warm_up=lambda: None):
    pass
"""


def _runs(process: str) -> bool:
    """Tell whether a process runs; one that has ended is listed until the system's first one has noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _JOBS], stderr=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def workers() -> list[str]:
            lines = [Path(f"/proc/{child}/cmdline") for child in children.read_text().split()]
            return [line.parent.name for line in lines if b"popen_loky" in line.read_bytes()]

        deadline = time.monotonic() + 40
        while len(found := workers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(number)
        assert process.wait(10) == -number
        time.sleep(2)
        assert len(found) == 2
        assert not [worker for worker in found if _runs(worker)]
