"""What the training loop knows of evaluators.

The loop builds them (``build_evaluators``), puts them into an
:class:`EvaluatorSet` and calls three things: ``observe`` after every
optimisation step, ``evaluate`` at the end of every epoch, and ``state_dict`` /
``load_state_dict`` for checkpoints. All processes call them alike, and all
receive the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mvkit.errors import CheckpointError
from mvkit.images.batch import Batch
from mvkit.images.settings import ViewsSettings
from mvkit.objectives.base import Objective
from mvkit.training.evaluation.modes import undisturbed

Split = Literal["train", "val"]


class EvaluationImages(Protocol):
    """The images of a run, as evaluators see them: no randomness, draws of views are those of epoch 0."""

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None where images have no labels."""

    def n_images(self, split: Split) -> int:
        """Return the number of images; 0 where there is no such split."""

    def batches(
        self, split: Split, indices: NDArray[np.int64], *, views: ViewsSettings | None = None
    ) -> AbstractContextManager[Iterator[Batch]]:
        """Iterate over this process's share of these images, in batches on the device of the run.

        ``views``: how they are shown; None: in the recipe's validation views.

        All processes give the same indices and receive the same number of batches; the rows of
        all processes, in rank order, are those that one process would receive.
        """


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator may look at.

    Attributes
    ----------
    encoder
        The network (not wrapped), on ``device``.
    objective
        The objective with its heads, banks and queues.
    images
        The run's images in validation views.
    device
        Where the run computes.
    epoch, step
        Epochs and optimisation steps that are finished.
    seed
        Of the run.
    """

    encoder: nn.Module
    objective: Objective
    images: EvaluationImages
    device: torch.device
    epoch: int
    step: int
    seed: int


class Evaluator:
    """Base of evaluators; subclasses override ``evaluate`` and, where they learn, the rest.

    Attributes
    ----------
    name
        Unique within a run; names its metrics and its state.
    every_epochs
        Evaluated when the number of finished epochs is a multiple, and after the last one.
    headline
        The metric that says which checkpoint is best.
    higher_is_better
        Whether larger values of ``headline`` are better.
    """

    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    def __init__(self, *, name: str, every_epochs: int) -> None:
        self.name = name
        self.every_epochs = every_epochs

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Look at a training batch (this process's rows) after its optimisation step."""
        del encoder, batch, step

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Measure; all processes call this together and receive the same numbers (NaN: not defined)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors and plain values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        del state


class EvaluatorSet:
    """All evaluators of a run as one.

    Parameters
    ----------
    evaluators
        With names that differ.
    best_by
        The metric that says which checkpoint is best, ``evaluator.metric``; None: the headline of the first.
    """

    def __init__(self, evaluators: Sequence[Evaluator], *, best_by: str | None = None) -> None:
        self.evaluators = tuple(evaluators)
        self._best_by = best_by

    def __len__(self) -> int:
        """Return the number of evaluators."""
        return len(self.evaluators)

    @property
    def headline(self) -> str | None:
        """Full name of the metric that says which checkpoint is best, e.g. ``linear_probe.top1``."""
        if self._best_by is not None or not self.evaluators:
            return self._best_by
        return f"{self.evaluators[0].name}.{self.evaluators[0].headline}"

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of ``headline`` are better: accuracies and predictivities, not losses."""
        if self.headline is None:
            return True
        name, _, metric = self.headline.rpartition(".")
        deciding = next(evaluator for evaluator in self.evaluators if evaluator.name == name)
        return deciding.higher_is_better or metric.startswith("top")

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Show every evaluator a training batch, after the optimisation step."""
        for evaluator in self.evaluators:
            evaluator.observe(encoder, batch, step=step)

    def is_due(self, epoch: int, *, is_last: bool = False) -> bool:
        """Tell whether anything is evaluated after ``epoch`` finished epochs."""
        return any(_due(evaluator, epoch, is_last=is_last) for evaluator in self.evaluators)

    def evaluate(self, context: EvaluationContext, *, is_last: bool = False) -> dict[str, float]:
        """Run the evaluators that are due; metrics are named ``evaluator.metric``.

        Encoder and objective are in eval mode meanwhile, gradients are off, and afterwards modes,
        statistics of norms and random number generators are as before.
        """
        results: dict[str, float] = {}
        for evaluator in self.evaluators:
            if _due(evaluator, context.epoch, is_last=is_last):
                with undisturbed(context.encoder, context.objective):
                    measured = evaluator.evaluate(context)
                results |= {f"{evaluator.name}.{key}": float(value) for key, value in measured.items()}
        return results

    def state_dict(self) -> dict[str, Any]:
        """Return every evaluator's state by name."""
        return {evaluator.name: evaluator.state_dict() for evaluator in self.evaluators}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises
        ------
        CheckpointError
            If it is of other evaluators.
        """
        names = [evaluator.name for evaluator in self.evaluators]
        if sorted(state) != sorted(names):
            raise CheckpointError(
                f"the checkpoint has evaluators {sorted(state)}, the recipe has {sorted(names)}\n"
                "resume with the recipe the checkpoint was written with"
            )
        for evaluator in self.evaluators:
            evaluator.load_state_dict(state[evaluator.name])


def _due(evaluator: Evaluator, epoch: int, *, is_last: bool) -> bool:
    return is_last or epoch % evaluator.every_epochs == 0
