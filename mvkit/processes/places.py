"""Where a process stands among those that torchrun or srun started, read from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mvkit.errors import UsageError

#: Ports for jobs of srun, which (unlike torchrun) hands out none: below Linux's ephemeral ports.
_FIRST_PORT, _N_PORTS = 15000, 15000


@dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes
    ----------
    rank, n_processes
        Number of this process among all, and how many there are.
    local_rank
        Number of this process on its machine: that of its GPU.
    address, port
        Where process 0 listens.
    own_gpu_only
        Whether the scheduler shows this process only the one GPU that it may use.
    """

    rank: int
    n_processes: int
    local_rank: int
    address: str
    port: int
    own_gpu_only: bool = False


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Return this process's place, or None if it is alone.

    Parameters
    ----------
    environment
        ``os.environ``: of torchrun RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
        and MASTER_PORT; of srun SLURM_PROCID, SLURM_STEP_NUM_TASKS (or
        SLURM_NTASKS), SLURM_LOCALID and the list of nodes (man page of srun,
        "Output environment variables").

    Raises
    ------
    UsageError
        If variables are missing or no numbers.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        place = Place(
            rank=_number(environment, "RANK"),
            n_processes=_number(environment, "WORLD_SIZE"),
            local_rank=_number(environment, "LOCAL_RANK"),
            address=_text(environment, "MASTER_ADDR"),
            port=_number(environment, "MASTER_PORT"),
        )
    elif "SLURM_PROCID" in environment and not _is_batch_script(environment):
        place = _slurm_place(environment)
    else:
        return None
    if not 0 <= place.rank < place.n_processes:
        raise UsageError(f"process {place.rank} of {place.n_processes}: check RANK and WORLD_SIZE")
    return place if place.n_processes > 1 else None


def first_host(nodes: str) -> str:
    """Return the first machine of a Slurm node list: "gpu[003-007,9]-ib,cpu1" is "gpu003-ib"."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes.strip())
    if match is None:
        raise UsageError(f"SLURM_NODELIST: '{nodes}' is no list of machines; set MASTER_ADDR")
    return "".join(part for part in match.groups() if part)


def _slurm_place(environment: Mapping[str, str]) -> Place:
    size_name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    if size_name not in environment:
        return Place(0, 1, 0, "", 0)
    lists = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    nodes = next((environment[name] for name in lists if environment.get(name)), "localhost")
    job = environment.get("SLURM_JOB_ID", "0")
    default_port = _FIRST_PORT + (int(job) if job.isdigit() else 0) % _N_PORTS
    return Place(
        rank=_number(environment, "SLURM_PROCID"),
        n_processes=_number(environment, size_name),
        local_rank=_number(environment, "SLURM_LOCALID"),
        address=environment.get("MASTER_ADDR") or first_host(nodes),
        port=_number(environment, "MASTER_PORT") if "MASTER_PORT" in environment else default_port,
        own_gpu_only="SLURM_GPUS_PER_TASK" in environment,
    )


def _is_batch_script(environment: Mapping[str, str]) -> bool:
    """Whether this is a job's script itself, which srun did not start: Slurm gives it the rank 0 too."""
    return "SLURM_JOB_ID" in environment and not {"SLURM_STEP_ID", "SLURM_STEPID"} & environment.keys()


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UsageError(
            f"{name} is not set beside the other variables of torchrun or srun: start all or none"
        )
    return environment[name]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _text(environment, name)
    if not text.isdigit():
        raise UsageError(f"{name}={text}: not a number")
    return int(text)
