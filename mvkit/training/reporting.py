"""What a run tells while it goes on and when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mvkit.training.pace import Watcher


@dataclass(frozen=True)
class FitReport:
    """What a run has come to.

    Attributes
    ----------
    folder
        Of log and checkpoints.
    step, n_steps, epochs
        Steps finished, of how many; epochs finished.
    resumed_from
        Steps that an earlier run had finished.
    interrupted
        Whether a signal ended it before its time.
    loss
        Of the last step; NaN if none was made.
    metrics
        Of the last evaluation.
    best, best_by
        Best value so far of the metric that decides which checkpoint is the best (None before the first),
        and its name.
    scored
        Name of the checkpoint that the folder stands for as a model.
    seconds
        Time it took.
    """

    folder: Path
    step: int
    n_steps: int
    epochs: int
    resumed_from: int
    interrupted: bool
    loss: float
    metrics: Mapping[str, float]
    best: float | None
    best_by: str
    scored: str
    seconds: float


@dataclass(frozen=True)
class Hearers:
    """Who is told what happens.

    Attributes
    ----------
    remark
        Sentences for people.
    watch
        The pace, as steps go by.
    """

    remark: Callable[[str], None] = lambda text: None
    watch: Watcher = lambda pace: None
