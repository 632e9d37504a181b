"""Micro-batches: cutting a batch, and running the same rows twice with the same result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mvkit.images.batch import Batch

BatchNorm = nn.modules.batchnorm._BatchNorm


def micro_batches(batch: Batch, n_parts: int) -> list[tuple[int, int]]:
    """Return (first, last) rows of ``n_parts`` contiguous parts whose sizes differ by one at most."""
    n_rows = len(batch.index)
    bounds = [part * n_rows // n_parts for part in range(n_parts + 1)]
    return list(itertools.pairwise(bounds))


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
