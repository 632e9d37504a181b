"""Everything a run is made of, put together by the pipeline and used by the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn, optim

from mvkit.images.loading import ImageSource
from mvkit.images.views import ViewMaker
from mvkit.models.base import VisionModel
from mvkit.objectives.base import Objective
from mvkit.training.evaluation.base import EvaluationImages, EvaluatorSet
from mvkit.training.order import Order
from mvkit.training.recipe import TrainRecipe
from mvkit.training.step import TrainStep


@dataclass(frozen=True)
class Learner:
    """What learns.

    Attributes
    ----------
    encoder, objective
        On the device, in the modes of training.
    optimiser
        Over their trainable parameters.
    step
        One optimisation step of these three.
    n_classes
        Width of the encoder's read-out where it was set; None where the architecture decides.
    """

    encoder: VisionModel
    objective: Objective
    optimiser: optim.Optimizer
    step: TrainStep
    n_classes: int | None = None

    def train_mode(self) -> None:
        """Put everything into the mode of training; a frozen encoder stays in eval mode."""
        self.encoder.train(self.objective.trains_encoder)
        self.objective.train()

    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Return encoder and objective."""
        return self.encoder, self.objective


@dataclass(frozen=True)
class RunPlace:
    """Where and on what a run happens; none of it is science.

    Attributes
    ----------
    folder
        Of log and checkpoints.
    device
        Where it computes.
    workers
        Loader threads.
    tensorboard
        Whether TensorBoard's files are written too.
    machine
        Device, precision, processes ... recorded in log and checkpoints.
    versions
        Of the software, recorded likewise.
    """

    folder: Path
    device: torch.device
    workers: int = 0
    tensorboard: bool = False
    machine: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSetup:
    """A run.

    Attributes
    ----------
    recipe
        What is computed.
    learner
        What learns.
    train
        Training images.
    views
        How they are looked at.
    order
        In which order.
    evaluators, images
        What is measured at the end of epochs, and the images for it.
    place
        Where it happens.
    """

    recipe: TrainRecipe
    learner: Learner
    train: ImageSource
    views: ViewMaker
    order: Order
    evaluators: EvaluatorSet
    images: EvaluationImages
    place: RunPlace

    @property
    def n_steps(self) -> int:
        """Optimisation steps of the whole run."""
        whole = self.recipe.train.epochs * self.order.steps_per_epoch
        return min(whole, self.recipe.train.max_steps or whole)

    @property
    def n_epochs(self) -> int:
        """Epochs of the whole run, a last one that ``max_steps`` cuts short included."""
        return -(-self.n_steps // self.order.steps_per_epoch)
