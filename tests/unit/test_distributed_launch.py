"""Starting processes: who is heard, whose error is shown, exit codes, signals, an outer torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mvkit import distributed
from mvkit.distributed import is_main_process, process_group, rank, run_processes, world_size
from mvkit.errors import DataError, MvkitError, RecipeError, UsageError
from mvkit.training.recipe import check_processes_divide

CPU = torch.device("cpu")
SCRIPT = Path(__file__).parent / "launched.py"
#: Runs ``run_processes`` as ``mvkit train --processes 2`` would, with the script in place of mvkit.
LAUNCH = f"""
import sys
from mvkit import distributed
from mvkit.cli import main as cli
distributed.WORKER = ({str(SCRIPT)!r},)
cli.app = lambda words, **settings: distributed.run_processes(2, words)
cli.main()
"""


def started(command: list[str], **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launched(*words: str) -> subprocess.Popen[str]:
    return started([sys.executable, "-c", LAUNCH, *words])


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and error of a run that ends in each way (started two at a time)."""
    found = {}
    for words in (("well", "all-fail"), ("last-fails", "last-dies"), ("bug",)):
        with pytest.MonkeyPatch.context() as patch:
            # Tracebacks are saved there.
            patch.setenv("MVKIT_HOME", str(tmp_path_factory.getbasetemp() / "home_of_runs"))
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
def test_an_unforeseen_error_is_shown_in_a_line(endings: dict[str, tuple[int, str, str]]) -> None:
    code, _, error = endings["bug"]
    assert code == 1
    # The script that fails is not mvkit's, as far as mvkit can see.
    assert "KeyError: 'nobody thought of this' (in code that is not mvkit's)\n" in error
    assert "error: a process failed: " in error and "Traceback" not in error


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
def test_an_outer_torchrun_shows_the_error_of_whoever_failed() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    out, error = (process := started([*launcher, str(SCRIPT), "last-fails"])).communicate(timeout=120)
    assert process.returncode == 1
    assert out == "ranks [0, 1] words ['last-fails']\n"
    assert error.count("broken image, said by 1") == 1


def test_tasks_of_srun_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"srun started 4 tasks.*\n.*srun torchrun"), process_group(CPU):
        pass
    # A job's script, or a step of one task, is alone.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with process_group(CPU) as device:
        assert device == CPU
        assert (rank(), world_size(), is_main_process()) == (0, 1, True)


def test_a_process_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageError, match="process 2 of this machine has no GPU, 2 visible"),
        process_group(torch.device("cuda")),
    ):
        pass


def test_incomplete_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MvkitError, match=r"MASTER_ADDR.*\nstart them with torchrun"), process_group(CPU):
        pass


def test_batches_must_divide() -> None:
    check_processes_divide(256, 4)
    with pytest.raises(UsageError, match="256 images cannot be shared equally by 3 processes\nuse 1 or 2 "):
        check_processes_divide(256, 3)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="3 processes need 3 GPUs, 2 visible"):
        run_processes(3, [], device=torch.device("cuda"))


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="0 processes"):
        run_processes(0, [])


def test_processes_inside_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="already process 1 of 2"):
        run_processes(2, [])


DATA = {"type": "DataError", "message": "broken"}
LOST = {"type": "OtherProcessLostError", "message": "another process has gone"}
BUG = {"type": "KeyError", "message": "KeyError: 1"}


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        # (exit code, what the process recorded): in the order of ranks, the last one was seen first.
        ([(1, LOST), (-9, {})], MvkitError("process 1 was killed by SIGKILL")),
        ([(-9, {}), (1, DATA)], DataError("broken")),  # killed by torchrun, which had waited for it
        ([(1, BUG), (-9, {})], MvkitError("process 1 was killed by SIGKILL")),
        ([(-15, {}), (1, BUG)], MvkitError("a process failed: KeyError: 1")),
        ([(-15, DATA), (1, {})], DataError("broken")),
        ([(1, LOST), (1, LOST)], MvkitError("another process has gone")),
        ([(130, {}), (130, {})], 130),
        ([(-15, {}), (-15, {})], 130),
        ([(2, {}), (-15, {})], 2),
    ],
)
def test_the_cause_is_found_among_what_followed(
    failures: list[tuple[int, dict[str, str]]], expected: MvkitError | int
) -> None:
    seen = [
        SimpleNamespace(local_rank=rank, exitcode=code, error_file_data=record, timestamp=-rank)
        for rank, (code, record) in enumerate(failures)
    ]
    if isinstance(expected, int):
        assert distributed._raise_cause(seen) == expected
        return
    with pytest.raises(MvkitError) as caught:
        distributed._raise_cause(seen)
    assert isinstance(caught.value, type(expected))
    assert str(caught.value).startswith(str(expected))


def test_an_error_of_a_stage_is_recorded_as_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnError(RecipeError):
        pass

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    distributed.record_failure(OwnError("line 3: unknown key"), "line 3: unknown key")
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["type"], record["message"]) == ("RecipeError", "line 3: unknown key")
