"""Cores and memory, of the machine and of the control groups of this process; full disks, devices."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread

import pytest

from mvkit import machine
from mvkit.errors import UsageError


@pytest.fixture()
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that tells nothing yet."""
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_CGROUP_ROOT", tmp_path / "groups")
    return tmp_path


def limit(folder: Path, most: str, used: int, dropped: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used}\n", encoding="ascii")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {dropped}\n", encoding="ascii")


def test_the_machine_tells(system: Path) -> None:
    assert machine.available_memory() is None
    (system / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:   24 kB\n", encoding="ascii")
    assert machine.available_memory() == 24 * 1024
    (system / "meminfo").write_text("MemTotal:  100 kB\n", encoding="ascii")
    assert machine.available_memory() is None


def test_the_tightest_limit_of_a_group_counts(system: Path) -> None:
    (system / "meminfo").write_text("MemAvailable:   24 kB\n", encoding="ascii")
    (system / "cgroup").write_text("0::/jobs/mine\n", encoding="utf-8")
    limit(system / "groups" / "jobs" / "mine", "max", 70, 0)
    assert machine.available_memory() == 24 * 1024
    limit(system / "groups" / "jobs", "9000", 4000, 500)
    assert machine.available_memory() == 5500
    limit(system / "groups" / "jobs" / "mine", "4100", 4000, 50)
    assert machine.available_memory() == 150
    limit(system / "groups" / "jobs" / "mine", "3000", 4000, 50)
    assert machine.available_memory() == 0


def test_groups_of_the_first_version_count_too(system: Path) -> None:
    (system / "meminfo").write_text("MemAvailable:   24 kB\n", encoding="ascii")
    (system / "cgroup").write_text(
        "9:name=systemd:/\n4:hugetlb,memory:/batch/7\n0::/elsewhere\n", encoding="utf-8"
    )
    job = system / "groups" / "memory" / "batch" / "7"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("9000\n", encoding="ascii")
    (job / "memory.usage_in_bytes").write_text("4000\n", encoding="ascii")
    (job / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\n", encoding="ascii")
    assert machine.available_memory() == 5500
    (job / "memory.limit_in_bytes").write_text("9223372036854771712\n", encoding="ascii")
    assert machine.available_memory() == 24 * 1024
    limit(system / "groups" / "elsewhere", "60", 50, 0)
    assert machine.available_memory() == 10


def test_errors_other_than_a_full_disk_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), machine.explain_full_disk(tmp_path, remedy=""):
        raise PermissionError(errno.EACCES, "denied")


def test_a_system_that_tells_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on macOS: no affinity and no /proc.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.available_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.available_cores() == 1
    for name in ("_MEMINFO", "_STATUS", "_CGROUP"):
        monkeypatch.setattr(machine, name, tmp_path / "missing")
    assert machine.available_memory() is None
    assert machine.resident_memory() == 0


def test_a_gpu_is_the_default_device_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (None, "auto"):
        for available, kind in ((True, "cuda"), (False, "cpu")):
            monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
            assert machine.choose_device(name).type == kind
    assert machine.choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="device cdua: give auto, cpu, cuda"):
        machine.choose_device("cdua")


def test_a_gpu_is_named_and_a_processor_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU of index {index}")
    assert machine.describe_gpu(torch.device("cpu")) is None
    assert machine.describe_gpu(torch.device("cuda")) == "cuda:1 (GPU of index 1)"
    assert machine.describe_gpu(torch.device("cuda", 0)) == "cuda:0 (GPU of index 0)"
    assert machine.describe_gpu(torch.device("mps")) == "mps"


@pytest.mark.parametrize(
    ("count", "message"), [(0, "no GPU here that torch can use"), (2, "there are 2 GPUs")]
)
def test_a_gpu_that_is_not_here(count: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*shape: int, device: object) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")

    monkeypatch.setattr("torch.empty", refuse)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    with pytest.raises(UsageError, match=rf"device cuda:7: {message}"):
        machine.choose_device("cuda:7")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (
            {
                "cpu/a/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_quota_us": "100000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "damaged"}, 8),
    ],
)
def test_cores_are_those_of_the_tightest_quota(
    files: dict[str, str], cores: int, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert machine.available_cores() == 8
    (system / "cgroup").write_text("5:cpuset:/a/b\n4:cpu,cpuacct:/a\n0::/a/b\n", encoding="utf-8")
    for name, text in files.items():
        path = system / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    assert machine.available_cores() == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert machine.available_cores() == 1


def test_a_shared_context_is_left_by_the_last_thread() -> None:
    changes: list[str] = []

    @contextmanager
    def change():
        changes.append("entered")
        yield
        changes.append("left")

    shared, inside = machine.SharedContext(change), Barrier(4, timeout=10)

    def work() -> None:
        with shared, shared:
            inside.wait()
            assert changes == ["entered"]

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changes == ["entered", "left"]
    with shared:
        assert changes == ["entered", "left", "entered"]


def test_children_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("print('of the user')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/usr/of_the_user")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    child = [sys.executable, "-c", "import queue, sys; print(sys.path[0])"]
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), machine.safe_child_path:
        assert subprocess.check_output(child, text=True) == "/usr/of_the_user\n"
        raise ZeroDivisionError
    assert dict(os.environ) == before
    # As if mvkit were run from a checkout, which is found through the current folder only.
    (tmp_path / "mvkit").mkdir()
    (tmp_path / "mvkit" / "machine.py").symlink_to(machine.__file__)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with machine.safe_child_path:
        root = str(Path(machine.__file__).parents[1])
        assert os.environ["PYTHONPATH"] == f"{root}{os.pathsep}/usr/of_the_user"
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert (os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]) == ("/usr/of_the_user", "")


def test_a_process_that_was_started_by_the_user_is_no_worker() -> None:
    assert not machine.is_worker_process()
    assert not machine.is_forked_worker()
