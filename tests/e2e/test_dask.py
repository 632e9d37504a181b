"""Scores on a dask cluster of two worker processes, and when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import mvkit
from mvkit.cli.main import run
from mvkit.errors import DataError, WorkerError
from mvkit.machine import Resources
from mvkit.scoring import Scores
from mvkit.scoring.parallel import active_client, dask_cluster, run_jobs, worker_count

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

QUICK = ["--dataset", "simulated", "--areas", "VISp", "--splits", "1", "--halves", "2", "--no-cache"]
#: For a machine under load; usually it takes two seconds.
PATIENCE_S = 60


@dataclass
class Cluster:
    """A scheduler and its workers, each a process of its own."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""

    def start(self) -> None:
        """Start the scheduler."""
        file = self.folder / "scheduler.json"
        self._run("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and "address" in file.read_text())
        self.address = str(json.loads(file.read_text())["address"])

    def add_worker(self, *, threads: int = 1) -> None:
        """Start a worker; nobody starts it again if it dies."""
        words = ["--nthreads", str(threads), "--no-nanny", "--local-directory", str(self.folder)]
        self.workers.append(self._run("worker", self.address, *words))

    def _run(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", kind, *words, "--no-dashboard"]
        with (self.folder / f"log{len(self.started)}").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End every process."""
        for process in reversed(self.started):
            process.kill()
            process.wait()

    @property
    def resources(self) -> Resources:
        """Where a run on this cluster is said to be."""
        return Resources(cache=False, dask=self.address)


def wait_until(moment: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not moment():
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.02)


def on(cluster: Cluster, *, cores: int) -> None:
    """Wait until the cluster has so many cores."""
    from distributed import Client

    with Client(cluster.address, timeout=PATIENCE_S, set_as_default=False) as client:
        wait_until(lambda: sum(client.ncores().values()) == cores)


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler of one's own, without workers."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler with two workers."""
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        found.start()
        found.add_worker()
        found.add_worker()
        on(found, cores=2)
        yield found
    finally:
        found.stop()


def test_a_run_on_a_cluster_writes_the_same_files(cluster: Cluster, tmp_path: Path) -> None:
    words = ["score", "gabor", *QUICK, "--ceiling", "pairwise"]
    assert run([*words, "--jobs", "1", "--out", str(tmp_path / "here")]) == 0
    there = ["--dask", cluster.address, "--out", str(tmp_path / "there")]
    assert run([*words, *there]) == 0
    files = sorted(path.relative_to(tmp_path / "here") for path in tmp_path.glob("here/**/*.*"))
    assert {str(file) for file in files} >= {
        "scores.parquet",
        "best_layers.csv",
        "scores.csv",
        "ceiling/scores.parquet",
    }
    for file in files:
        if file.name == "summary.json":
            here, other = (json.loads((tmp_path / side / file).read_text()) for side in ("here", "there"))
            assert here["digest"] == other["digest"]
        else:
            assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file


def test_jobs_are_done_by_workers_even_one_at_a_time(cluster: Cluster) -> None:
    expected = {worker.pid for worker in cluster.workers}
    warmed: list[bool] = []
    with dask_cluster(cluster.address):
        outer = active_client()
        with dask_cluster(cluster.address):
            assert active_client() is outer
        assert active_client() is outer
        assert (worker_count(-1), worker_count(1), worker_count(7)) == (2, 1, 2)
        for n_jobs in (1, -1):
            found = run_jobs(os.getpid, [()] * 4, n_jobs=n_jobs, warm_up=lambda: warmed.append(True))
            assert {process for _, process in found} <= expected
    assert not warmed, "the workers compile, not this process"
    assert list(run_jobs(os.getpid, [()], n_jobs=1, warm_up=list)) == [(0, os.getpid())]


def test_results_keep_their_numbers_and_large_arguments_their_values(cluster: Cluster) -> None:
    large = [np.full((100, 100), float(number)) for number in range(3)]
    jobs = [([large[place % 3], np.full((1, 100), float(place))],) for place in range(9)]
    with dask_cluster(cluster.address):
        for n_jobs in (1, 2, -1):
            found = dict(run_jobs(np.vstack, jobs, n_jobs=n_jobs, warm_up=list))
            assert sorted(found) == list(range(9))
            for number, (parts,) in enumerate(jobs):
                np.testing.assert_array_equal(found[number], np.vstack(parts))


def test_an_error_of_a_job_is_the_error_of_the_run(cluster: Cluster) -> None:
    from mvkit.features.buffer import StoredLayer

    gone = StoredLayer(Path("nowhere") / "layer", (3, 4))
    with dask_cluster(cluster.address), pytest.raises(DataError, match="nowhere/layer: features cannot"):
        list(run_jobs(gone.columns, [(0, 2)], n_jobs=-1, warm_up=list))


def scored(
    layers: dict[str, np.ndarray], resources: Resources, progress: Callable[[int, int], None]
) -> Scores:
    return mvkit.score(
        layers,
        "simulated",
        areas=["VISp"],
        n_splits=1,
        n_halves=2,
        progress=progress,
        resources=resources,
    )


def test_a_killed_worker_changes_nothing(new_cluster: Cluster) -> None:
    generator = np.random.default_rng(3)
    layers = {name: generator.normal(size=(118, 60)).astype(np.float32) for name in ("one", "two")}
    here = scored(layers, Resources(n_jobs=1, cache=False), lambda done, total: None)
    new_cluster.add_worker(threads=2)
    new_cluster.add_worker()
    on(new_cluster, cores=3)
    calls: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not calls:
            new_cluster.workers[0].send_signal(signal.SIGKILL)
            assert new_cluster.workers[0].wait(PATIENCE_S) == -signal.SIGKILL
        calls.append(total - done)

    with dask_cluster(new_cluster.address):
        there = scored(layers, new_cluster.resources, kill_one)
    assert calls[0] > 0 == calls[-1], "it was killed while there was work left"
    for name, column in here.columns.items():
        np.testing.assert_array_equal(there.columns[name], column, err_msg=name)
    np.testing.assert_array_equal(there.by_fold, here.by_fold)


def test_a_scheduler_that_dies_is_an_error_of_two_lines(
    new_cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    new_cluster.add_worker()
    on(new_cluster, cores=1)

    def jobs() -> Iterator[tuple[float]]:
        yield (0.0,)
        new_cluster.started[0].kill()
        yield (PATIENCE_S,)

    lost = "the connection to the dask scheduler was lost"
    with pytest.raises(WorkerError, match=lost) as caught, dask_cluster(new_cluster.address):
        list(run_jobs(time.sleep, jobs(), n_jobs=-1, warm_up=list))
    assert len(str(caught.value).splitlines()) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_cluster_without_workers_is_refused(new_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvkit.scoring.parallel._WORKERS_S", 0.2)
    with (
        pytest.raises(WorkerError, match="no workers\nstart some with 'dask worker tcp://"),
        dask_cluster(new_cluster.address),
    ):
        pytest.fail("was not refused")


def test_workers_with_other_versions_are_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvkit.scoring.parallel._version_here", lambda package: "0.0.1")
    with (
        pytest.raises(WorkerError, match=r"mvkit-neuro is .* on this worker, and 0\.0\.1 here"),
        dask_cluster(cluster.address),
    ):
        pytest.fail("was not refused")
