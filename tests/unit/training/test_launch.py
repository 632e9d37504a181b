"""Starting processes: who is heard, whose error is shown, exit codes, signals, foreign launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.training.launch import rows_per_process, run_processes

SCRIPT = Path(__file__).parent / "launched.py"
#: Runs ``run_processes`` as ``mvkit train --processes 2`` would, with the script in place of mvkit.
LAUNCH = f"""
import runpy, sys
from mvkit.errors import MvkitError
from mvkit.training import launch
launch.COMMAND = "import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
try:
    code = launch.run_processes(2, sys.argv[1:])
except MvkitError as error:
    sys.stderr.write(f"error: {{error}}\\n")
    code = error.exit_code
sys.exit(code)
"""


def started(command: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launched(*words: str) -> subprocess.Popen[str]:
    return started([sys.executable, "-c", LAUNCH, *words])


@pytest.fixture(scope="module")
def endings() -> dict[str, tuple[int, str, str]]:
    """Exit code, output and error of a run that ends in each way (started two at a time)."""
    found = {}
    for words in (("well", "all-fail"), ("last-fails", "last-dies")):
        running = {word: launched(word) for word in words}
        for word, process in running.items():
            out, error = process.communicate(timeout=120)
            found[word] = (process.returncode, out, error)
    return found


@pytest.mark.slow
def test_only_the_first_process_is_heard(endings: dict[str, tuple[int, str, str]]) -> None:
    assert endings["well"] == (0, "ranks [0, 1] words ['well']\nafter\n", "progress\n")


@pytest.mark.slow
def test_an_error_of_all_is_shown_once(endings: dict[str, tuple[int, str, str]]) -> None:
    code, _, error = endings["all-fail"]
    assert code == 1
    assert error.replace("progress\n", "") == "error: broken image, said by one\n"


@pytest.mark.slow
def test_an_error_of_another_process_is_shown(endings: dict[str, tuple[int, str, str]]) -> None:
    code, _, error = endings["last-fails"]
    assert code == 1
    assert error.replace("progress\n", "") == "error: broken image, said by 1\n"


@pytest.mark.slow
def test_a_killed_process_ends_the_others(endings: dict[str, tuple[int, str, str]]) -> None:
    code, _, error = endings["last-dies"]
    assert code == 1
    assert "error: process 1 was killed by SIGKILL" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_process(number: signal.Signals) -> None:
    # A shell that runs tests in the background has Ctrl-C ignored; children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = launched("wait")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ranks [0, 1]")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error


@pytest.mark.slow
def test_joining_an_outer_torchrun() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    out, error = (process := started([*launcher, str(SCRIPT), "well"])).communicate(timeout=120)
    assert process.returncode == 0, error
    assert out == "ranks [0, 1] words ['well']\nafter\n"


@pytest.mark.slow
def test_joining_an_outer_srun() -> None:
    """Two processes with the variables that srun gives; process 0 serves the meeting point."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    running = [
        started(
            [sys.executable, str(SCRIPT), "well"],
            **job,
            SLURM_PROCID=str(number),
            SLURM_LOCALID=str(number),
            SLURM_NODELIST="localhost",
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert [out for out, _ in outputs] == ["ranks [0, 1] words ['well']\nafter\n", ""]


def test_batches_must_divide() -> None:
    assert rows_per_process(256, 4) == 64
    with pytest.raises(UsageError, match="256 images cannot be shared equally by 3 processes\nuse 1 or 2 "):
        rows_per_process(256, 3)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="3 processes need 3 GPUs, 2 visible"):
        run_processes(3, [], device=torch.device("cuda"))


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="0 processes"):
        run_processes(0, [])


def test_processes_inside_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="already process 1 of 2"):
        run_processes(2, [])
