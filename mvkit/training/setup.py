"""Everything that a run is made of, how it is built, and the order in which it sees the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn, optim

from mvkit.distributed import rank, synchronise_norms, world_size
from mvkit.errors import DataError, RecipeError, UsageError, wording
from mvkit.images.loader import ImageSource
from mvkit.images.settings import CentreCrop
from mvkit.images.views import ViewMaker
from mvkit.machine import installed_versions
from mvkit.models.base import VisionModel
from mvkit.models.loading import build_for_training
from mvkit.models.preprocessing import Preprocessing
from mvkit.objectives.base import Objective, build_objective
from mvkit.objectives.registry import OBJECTIVES
from mvkit.rng import hashed
from mvkit.training.evaluation import EvaluatorSet, NeuralBuilder, RunImages, build_evaluators
from mvkit.training.optim import build_optimiser
from mvkit.training.recipe import TrainRecipe, check_processes_divide
from mvkit.training.step import StepSettings, TrainStep

#: Packages on which the numbers of a run may depend.
_PACKAGES = ("torch", "torchvision", "numpy", "numba", "pillow", "ffcv")
#: Key of the draws that belong to the order, so that they share nothing with those of the views.
_ORDER_KEY = 0x0D0E


@dataclass(frozen=True)
class TrainingSetup:
    """A run.

    Attributes
    ----------
    recipe
        What is computed.
    learner
        Network, objective and optimiser.
    images
        Training and validation images.
    views
        Makes views of training images.
    order
        The batches of every epoch.
    evaluators
        What is measured at the end of epochs.
    folder
        Of log and checkpoints.
    tensorboard
        Whether TensorBoard's files are written too.
    machine, versions
        Device, precision, processes ... and versions of the software, recorded in log and checkpoints.
    """

    recipe: TrainRecipe
    learner: Learner
    images: RunImages
    views: ViewMaker
    order: Order
    evaluators: EvaluatorSet
    folder: Path
    tensorboard: bool = False
    machine: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self.images.device

    @property
    def n_steps(self) -> int:
        """Optimisation steps of the whole run."""
        return n_steps(self.recipe, self.order)

    @property
    def n_epochs(self) -> int:
        """Epochs of the whole run, a last one that ``max_steps`` cuts short included."""
        return -(-self.n_steps // self.order.steps_per_epoch)


def n_steps(recipe: TrainRecipe, order: Order) -> int:
    """Return the optimisation steps of a whole run."""
    whole = recipe.train.epochs * order.steps_per_epoch
    return min(whole, recipe.train.max_steps or whole)


def build_setup(
    recipe: TrainRecipe,
    images: RunImages,
    *,
    folder: Path,
    step: StepSettings,
    weights: str | None = None,
    home: Path | None = None,
    tensorboard: bool = False,
    build_neural: NeuralBuilder | None = None,
) -> TrainingSetup:
    """Build everything that a run is made of; all processes call this alike.

    Parameters
    ----------
    recipe
        What is computed.
    images
        Training and validation images.
    folder
        Of the run.
    step
        How a step is computed.
    weights, home
        See :func:`build_networks`.
    tensorboard
        Whether TensorBoard's files are written.
    build_neural
        Builds an evaluator of neural predictivity.

    Raises
    ------
    RecipeError, UsageError, DataError, CheckpointError
        Something does not fit; nothing has been written.
    """
    check_images(recipe, images.train)
    train, device, n_images = recipe.train, images.device, images.train.n_images
    order = Order(n_images, train.batch_size, train.seed, recipe.data.drop_last, rank(), world_size())
    encoder, objective = build_networks(
        recipe,
        n_images=n_images,
        n_classes=images.n_classes,
        responses=images.train.responses,
        weights=weights,
        home=home,
    )
    for module in (encoder, objective):
        module.to(device)
        if train.sync_norm and world_size() > 1:
            synchronise_norms(module, device)
    optimiser = build_optimiser(recipe.optimiser, [encoder, objective])
    return TrainingSetup(
        recipe=recipe,
        learner=Learner(
            encoder,
            objective,
            optimiser,
            TrainStep(encoder, objective, optimiser, settings=step, device=device),
            images.n_classes,
        ),
        images=images,
        views=ViewMaker(recipe.views, seed=train.seed, device=device),
        order=order,
        evaluators=build_evaluators(
            recipe, encoder=encoder, images=images, device=device, build_neural=build_neural
        ),
        folder=folder,
        tensorboard=tensorboard,
        machine={
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": world_size(),
            "threads": torch.get_num_threads(),
            "workers": images.workers,
            **asdict(step),
        },
        versions=installed_versions(*_PACKAGES),
    )


def check_images(recipe: TrainRecipe, images: ImageSource) -> None:
    """Check that the images have what the objective needs.

    Raises
    ------
    DataError
        Labels or depths are missing.
    """
    needs = OBJECTIVES[recipe.objective.name].needs
    if needs == "label" and images.classes is None:
        raise DataError(
            f"{images.description}: has no labels, and {recipe.objective.name} needs them\n"
            "give images in a folder for each class"
        )
    if needs == "depth" and not images.has_depth:
        raise DataError(
            f"{images.description}: has no depths, and {recipe.objective.name} needs them\n"
            "run: mvkit prep pbrnet --images DIR"
        )


def build_networks(
    recipe: TrainRecipe,
    *,
    n_images: int,
    n_classes: int | None,
    responses: NDArray[np.float32] | None = None,
    weights: str | None = None,
    home: Path | None = None,
) -> tuple[VisionModel, Objective]:
    """Build network and objective on the CPU, in the modes of training.

    Parameters
    ----------
    recipe
        Its architecture, objective, views and seed.
    n_images, n_classes
        Of the training set; no classes without labels.
    responses
        Of units to the training images, (n_images, n_units), NaN = missing; None without recordings.
    weights
        "random", "released" or the path of a checkpoint to start from; None: as the recipe says.
    home
        Directory of mvkit's files, for "released".

    Raises
    ------
    UsageError, CheckpointError
        The architecture is unknown or does not suit the objective; weights are missing or do not fit.
    """
    seed = recipe.train.seed
    encoder = build_for_training(
        recipe.model.architecture,
        n_classes=n_classes,
        seed=seed,
        weights=weights or recipe.model.weights,
        home=home,
        encoder=recipe.model.encoder,
    )
    trained_px = encoder.preprocess.input_px
    is_frozen = not OBJECTIVES[recipe.objective.name].build.trains_encoder
    if is_frozen and trained_px != recipe.input_px and not encoder.weights_id.startswith("random"):
        raise UsageError(
            f"{encoder.name} was trained at {trained_px} px, and this recipe, which does not train it, "
            f"shows it {recipe.input_px} px\ngive its own size: "
            + wording(f"--set views.size_px={trained_px}", f"views.size_px={trained_px}")
        )
    if recipe.input_px != trained_px:
        encoder.check_input_side(recipe.input_px)
    encoder.preprocess = network_preprocessing(recipe)
    objective = build_objective(
        recipe.objective,
        encoder=encoder,
        input_px=recipe.input_px,
        n_images=n_images,
        n_classes=n_classes,
        seed=seed,
        responses=None if responses is None else torch.from_numpy(responses),
    )
    return encoder, objective


def network_preprocessing(recipe: TrainRecipe) -> Preprocessing:
    """Return how images become the network's input after training: as the recipe's validation views."""
    validation = recipe.validation
    crop = validation.views[0].crop
    if not isinstance(crop, CentreCrop) or crop.crop_px is None:  # refused with the recipe
        raise RecipeError("validation.views: must be one centre crop with crop_px")
    return Preprocessing(
        resize_px=crop.resize_px,
        crop_px=crop.crop_px,
        input_px=validation.size_px,
        mean=validation.mean,
        std=validation.std,
    )


@dataclass(frozen=True)
class Learner:
    """Network, objective and optimiser of a run.

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
class Order:
    """The batches of a run.

    Attributes
    ----------
    n_images
        Images of the training set.
    batch_size
        Images of a global batch (all processes together).
    seed
        Of the permutations.
    drop_last
        Whether the images that fill no whole batch are left out of an epoch.
    rank, size
        This process and the number of processes; each has a contiguous part of every global batch, of equal
        size, or, of a last batch that fills no whole one, as equal as can be.
    """

    n_images: int
    batch_size: int
    seed: int
    drop_last: bool = True
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        """Check that every epoch has batches, and every process images."""
        check_processes_divide(self.batch_size, self.size)
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"train.batch_size {self.batch_size} is more than the {self.n_images} images there are\n"
                f"choose a smaller one: {wording('--set ', '')}train.batch_size={max(self.n_images, 1)}"
            )
        rest = 0 if self.drop_last else self.n_images % self.batch_size
        if 0 < rest < max(2, self.size):
            needs = f"{self.size} processes need one each" if self.size > 2 else "batch norms need two"
            raise UsageError(
                f"the last batch of an epoch has {rest} of the {self.n_images} images, and {needs}\n"
                f"leave it out: {wording('--set ', '')}data.drop_last=true"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        exact = self.n_images / self.batch_size
        return math.floor(exact) if self.drop_last else math.ceil(exact)

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """Return all image indices in the order of an epoch: int64 (n_images,)."""
        images = np.arange(self.n_images, dtype=np.int64)
        # 63 random bits each: ties, which the index would settle, are then as good as absent.
        high = hashed(self.seed, _ORDER_KEY, epoch, images, 0)
        low = hashed(self.seed, _ORDER_KEY, epoch, images, 1)
        return np.argsort((high << 31) | (low >> 1), kind="stable").astype(np.int64)

    def batches(self, epoch: int, *, first: int = 0, last: int | None = None) -> list[NDArray[np.int64]]:
        """Return this process's part of the global batches ``first`` to ``last`` (excluded) of an epoch.

        Global batch ``k`` is ``permutation[k * batch_size : (k + 1) * batch_size]``.
        """
        order = self.permutation(epoch)
        last = self.steps_per_epoch if last is None else min(last, self.steps_per_epoch)
        whole = (order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(first, last))
        return [self._part(batch) for batch in whole]

    def _part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        first, last = (len(batch) * rank // self.size for rank in (self.rank, self.rank + 1))
        return batch[first:last]
