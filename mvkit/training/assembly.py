"""From a recipe and images to everything a run is made of."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mvkit.distributed import rank, synchronise_norms, world_size
from mvkit.errors import DataError, RecipeError, UsageError
from mvkit.images.loader import ImageSource
from mvkit.images.settings import CentreCrop
from mvkit.images.views import ViewMaker
from mvkit.machine import installed_versions
from mvkit.models.base import VisionModel
from mvkit.models.loading import build_for_training
from mvkit.models.preprocessing import Preprocessing
from mvkit.objectives.base import Objective, build_objective
from mvkit.objectives.registry import OBJECTIVES
from mvkit.training.evaluation import Evaluator, RunImages, build_evaluators
from mvkit.training.optim import build_optimiser
from mvkit.training.recipe import NeuralPredictivity, TrainRecipe
from mvkit.training.setup import Learner, Order, RunPlace, TrainingSetup
from mvkit.training.step import StepSettings, TrainStep

#: Packages on which the numbers of a run may depend.
_PACKAGES = ("torch", "torchvision", "numpy", "numba", "pillow", "ffcv")


@dataclass(frozen=True)
class Sources:
    """The images of a run; ``val`` may be missing."""

    train: ImageSource
    val: ImageSource | None = None

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None without labels."""
        return None if self.train.classes is None else len(self.train.classes)


@dataclass(frozen=True)
class Start:
    """Where the network's weights come from.

    Attributes
    ----------
    weights
        "random", "released" or the path of a checkpoint; None: as the recipe says.
    home
        Directory of mvkit's files, for "released".
    """

    weights: str | None = None
    home: Path | None = None


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; by default a GPU if there is one.

    Raises
    ------
    UsageError
        There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: {reason}; use cpu, or cuda on a machine with a GPU") from error
    return device


def check_images(recipe: TrainRecipe, sources: Sources) -> None:
    """Refuse images without what the objective needs.

    Raises
    ------
    DataError
        Labels or depths are missing.
    """
    needs = OBJECTIVES[recipe.objective.name].needs
    if needs == "label" and sources.train.classes is None:
        raise DataError(
            f"{sources.train.description}: has no labels, and {recipe.objective.name} needs them\n"
            "give images in a folder for each class"
        )
    if needs == "depth" and not sources.train.has_depth:
        raise DataError(
            f"{sources.train.description}: has no depths, and {recipe.objective.name} needs them\n"
            "run: mvkit prep pbrnet --images DIR"
        )


def build_networks(
    recipe: TrainRecipe, *, n_images: int, n_classes: int | None, start: Start
) -> tuple[VisionModel, Objective]:
    """Build network and objective on the CPU, in the modes of training.

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
        weights=start.weights or recipe.model.weights,
        home=start.home,
    )
    preprocess = network_preprocessing(recipe)
    if not OBJECTIVES[recipe.objective.name].build.trains_encoder:
        _check_frozen(encoder, preprocess)
    if recipe.input_px != encoder.preprocess.input_px:
        encoder.check_input_side(recipe.input_px)
    encoder.preprocess = preprocess
    objective = build_objective(
        recipe.objective,
        encoder=encoder,
        input_px=recipe.input_px,
        n_images=n_images,
        n_classes=n_classes,
        seed=seed,
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


def _check_frozen(encoder: VisionModel, preprocess: Preprocessing) -> None:
    """Refuse to read out a network that is never trained on images of another size than it was trained on."""
    trained, shown = encoder.preprocess, preprocess
    if trained.input_px != shown.input_px and not encoder.weights_id.startswith("random"):
        raise UsageError(
            f"{encoder.name} was trained at {trained.input_px} px, and this recipe, which does not train it, "
            f"shows it {shown.input_px} px\ngive its own size: --set views.size_px={trained.input_px}"
        )


def assemble(
    recipe: TrainRecipe,
    sources: Sources,
    place: RunPlace,
    *,
    steps: StepSettings,
    start: Start,
    neural: Callable[[NeuralPredictivity, str, VisionModel], Evaluator] | None = None,
) -> TrainingSetup:
    """Put a run together; all processes call this alike.

    Parameters
    ----------
    recipe
        What is computed.
    sources
        Images.
    place
        Where it happens; machine and versions are filled in here.
    steps
        How a step is computed.
    start
        Where weights come from.
    neural
        Builds an evaluator of neural predictivity from its settings, its name and the network.

    Raises
    ------
    RecipeError, UsageError, DataError, CheckpointError
        Something does not fit; nothing has been written.
    """
    check_images(recipe, sources)
    seed, device = recipe.train.seed, place.device
    order = Order(
        sources.train.n_images, recipe.train.batch_size, seed, recipe.data.drop_last, rank(), world_size()
    )
    encoder, objective = build_networks(
        recipe, n_images=sources.train.n_images, n_classes=sources.n_classes, start=start
    )
    encoder.to(device)
    objective.to(device)
    if recipe.train.sync_norm and world_size() > 1:
        synchronise_norms(encoder, device)
        synchronise_norms(objective, device)
    optimiser = build_optimiser(recipe.optimiser, [encoder, objective])
    step = TrainStep(encoder, objective, optimiser, settings=steps, device=device)
    images = RunImages(
        train=sources.train,
        val=sources.val,
        validation_views=recipe.validation,
        batch_size=recipe.train.batch_size,
        seed=seed,
        workers=place.workers,
        device=device,
    )
    with_network = (lambda settings, name: neural(settings, name, encoder)) if neural is not None else None
    return TrainingSetup(
        recipe=recipe,
        learner=Learner(encoder, objective, optimiser, step, sources.n_classes),
        train=sources.train,
        views=ViewMaker(recipe.views, seed=seed, device=device),
        order=order,
        evaluators=build_evaluators(
            recipe, encoder=encoder, images=images, device=device, neural=with_network
        ),
        images=images,
        place=_recorded(place, steps),
    )


def default_workers(n_processes: int) -> int:
    """Return the loader threads of a process: its share of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // n_processes)


def _recorded(place: RunPlace, steps: StepSettings) -> RunPlace:
    machine = {
        "device": place.device.type,
        "device_name": _device_name(place.device),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "workers": place.workers,
        **asdict(steps),
    }
    return RunPlace(
        folder=place.folder,
        device=place.device,
        workers=place.workers,
        tensorboard=place.tensorboard,
        machine=machine,
        versions=installed_versions(*_PACKAGES),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
