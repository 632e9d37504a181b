"""Micro-batches: cutting a batch, and running the same rows twice with the same result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.processes.gathering import row_counts
from mvkit.processes.world import rank

BatchNorm = nn.modules.batchnorm._BatchNorm


class MicroBatch(NamedTuple):
    """Rows ``first`` to ``last`` (excluded) of this process.

    ``weight``: the part of the global batch's images that this micro-batch
    holds, on all processes together.
    """

    first: int
    last: int
    weight: float


def shared_micro_batches(n_own: int, n_parts: int) -> list[MicroBatch]:
    """Cut this process's rows into contiguous parts whose sizes differ by one at most.

    Processes cut alike, into fewer parts where one of them has fewer rows:
    every part is a meeting of all in batch norms and losses.

    Raises
    ------
    UsageError
        If a process has no rows.
    """
    counts = row_counts(n_own)
    if min(counts) == 0:
        raise UsageError(
            f"process {counts.index(0)} of {len(counts)} has no images in a batch of {sum(counts)}: "
            "use fewer processes or a larger batch"
        )
    n_parts = min(n_parts, *counts)
    cuts = [[part * n_rows // n_parts for part in range(n_parts + 1)] for n_rows in counts]
    bounds = cuts[rank()]
    n_together = [sum(cut[part + 1] - cut[part] for cut in cuts) for part in range(n_parts)]
    return [
        MicroBatch(bounds[part], bounds[part + 1], n_together[part] / sum(counts)) for part in range(n_parts)
    ]


def generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of the generators that dropout draws from."""
    on_cpu = torch.get_rng_state()
    return (on_cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (on_cpu,)


def set_generator_states(states: tuple[Tensor, ...], device: torch.device) -> None:
    """Go back to states from :func:`generator_states`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def running_statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by their batch as in training, but leave running statistics alone."""
    norms = [
        part
        for module in modules
        for part in module.modules()
        if isinstance(part, BatchNorm) and part.training and part.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
