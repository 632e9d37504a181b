"""Environments of torchrun and srun; variables as in their documentation."""

from __future__ import annotations

import pytest

from mvkit.errors import UsageError
from mvkit.processes.places import Place, find_place, first_host

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "16001",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "gpu[03-04]",
}


def test_alone_without_variables() -> None:
    assert find_place({}) is None
    assert find_place({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None


def test_torchrun() -> None:
    assert find_place(TORCHRUN) == Place(3, 4, 1, "node1", 29500)


def test_torchrun_inside_a_slurm_job_goes_by_torchrun() -> None:
    assert find_place({**SRUN, **TORCHRUN}) == Place(3, 4, 1, "node1", 29500)


def test_srun_meets_at_the_first_machine_and_a_port_of_the_job() -> None:
    assert find_place(SRUN) == Place(5, 8, 1, "gpu03", 16001)
    assert find_place({**SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "7"}) == Place(5, 8, 1, "a", 7)
    # Another job on the same machines meets elsewhere.
    other = find_place({**SRUN, "SLURM_JOB_ID": "16002"})
    assert other is not None and other.port == 16002


def test_a_step_with_fewer_tasks_than_its_job_goes_by_the_step() -> None:
    assert find_place({**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    place = find_place({**SRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"})
    assert place is not None and place.n_processes == 2


def test_the_script_of_a_job_is_alone_though_it_has_the_jobs_variables() -> None:
    script = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"}
    assert find_place({**script, "SLURM_PROCID": "0"}) is None


def test_one_gpu_per_task_is_noted() -> None:
    place = find_place({**SRUN, "SLURM_GPUS_PER_TASK": "1"})
    assert place is not None and place.own_gpu_only


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("cpu1", "cpu1"),
        ("cpu1,cpu2", "cpu1"),
        ("gpu[003-007,9],cpu1", "gpu003"),
        ("gpu[12]-ib", "gpu12-ib"),
        ("rack-1-node[2,5-6]", "rack-1-node2"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK=one: not a number"),
        ({"RANK": "4"}, "process 4 of 4"),
    ],
)
def test_incomplete_variables_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_place({**TORCHRUN, **change})


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no list of machines"):
        first_host("")
