"""One training run as a command describes it: recipe, images, network, objective, loop."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import DataError
from mvkit.files import check_link

if TYPE_CHECKING:
    from mvkit.models.base import VisionModel
    from mvkit.training.assembly import Sources
    from mvkit.training.evaluation import Evaluator
    from mvkit.training.log import Callbacks, FitReport
    from mvkit.training.plan import TrainPlan
    from mvkit.training.recipe import NeuralPredictivity, TrainRecipe
    from mvkit.training.step import PrecisionName

#: Where runs are kept unless said otherwise, in the current directory.
_RUNS = "runs"
#: Files that are there if there are validation images: betons and folders, CIFAR-10's.
_VALIDATION = ("val", "val.beton", "test_batch", "cifar-10-batches-py")


@dataclass(frozen=True)
class Machine:
    """On what a run happens; nothing of it changes what is computed but for rounding.

    Attributes
    ----------
    device
        "cpu", "cuda", ...; None: a GPU if there is one.
    workers
        Loader threads of a process; None: its share of the cores.
    accumulate
        Micro-batches into which a process cuts its share of a batch.
    precision
        "fp32", "bf16" or "fp16".
    channels_last, compile
        See :class:`mvkit.training.step.StepSettings`.
    """

    device: str | None = None
    workers: int | None = None
    accumulate: int = 1
    precision: PrecisionName = "fp32"
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True)
class TrainRequest:
    """What a user asked to have trained; None means the default.

    Attributes
    ----------
    recipe, overrides
        Recipe (path or packaged name) and ``key=value`` changes to it.
    images
        Folder of betons or images; None: where ``mvkit prep`` puts what the recipe names.
    out
        Folder of the run; None: ``runs/NAME``.
    resume
        "auto", "never" or the path of a checkpoint, see :func:`mvkit.training.checkpoint.find_resume`.
    weights
        "random", "released" or the path of a checkpoint to start from; None: as the recipe says.
    tensorboard
        Whether TensorBoard's files are written.
    machine, home
        Where it runs; directory of mvkit's files.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    images: Path | None = None
    out: Path | None = None
    resume: str = "auto"
    weights: str | None = None
    tensorboard: bool = False
    machine: Machine = field(default_factory=Machine)
    home: Path | None = None


@dataclass(frozen=True)
class TrainReport:
    """What a run has come to.

    Attributes
    ----------
    recipe, digest
        Name and digest of the recipe.
    fit
        What the loop reports.
    notes
        What differs from a float32 step on the whole batch at once.
    """

    recipe: str
    digest: str
    fit: FitReport
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"recipe": self.recipe, "digest": self.digest, "notes": self.notes, **asdict(self.fit)}


def run_training(request: TrainRequest, *, callbacks: Callbacks | None = None) -> TrainReport:
    """Train, or go on training, as a request says; several processes call it alike.

    Raises
    ------
    RecipeError, UsageError
        An unknown name or a value out of range; everything is checked before training starts.
    DataError
        The images are missing (names the command that prepares them) or unfit.
    CheckpointError
        Weights or the checkpoint to resume from are missing, damaged or of another run.
    FitError
        The loss is not finite.
    """
    from mvkit.distributed import is_main_process, process_group, world_size
    from mvkit.machine import choose_device
    from mvkit.training.assembly import Start, assemble, default_workers
    from mvkit.training.checkpoint import check_same_run, claimed, find_resume, write_recipe
    from mvkit.training.log import Callbacks
    from mvkit.training.loop import fit
    from mvkit.training.recipe import science_digest
    from mvkit.training.setup import RunPlace
    from mvkit.training.step import StepSettings

    callbacks = callbacks or Callbacks()
    recipe = resolve_recipe(request)
    sources = open_sources(request, recipe)
    folder = run_folder(request, recipe)
    machine = request.machine
    with (
        process_group(choose_device(machine.device)) as device,
        claimed(folder) if is_main_process() else nullcontext(),
    ):
        found = find_resume(folder, request.resume)
        workers = machine.workers if machine.workers is not None else default_workers(world_size())
        setup = assemble(
            recipe,
            sources,
            RunPlace(folder, device, workers, tensorboard=request.tensorboard),
            steps=StepSettings(machine.accumulate, machine.precision, machine.channels_last, machine.compile),
            start=Start(request.weights, request.home),
            neural=partial(_neural_evaluator, home=request.home),
        )
        if found is not None:
            check_same_run(found[1], setup, str(found[0]))
            callbacks.remark(f"going on from {found[0]}, step {found[1]['progress']['step']}")
        if is_main_process():
            write_recipe(folder, recipe)
        notes = setup.learner.step.notes()
        for sentence in notes:
            callbacks.remark(sentence)
        report = fit(setup, resume=found[1] if found else None, callbacks=callbacks)
    return TrainReport(recipe.name, science_digest(recipe), report, notes)


def plan_training(request: TrainRequest, *, processes: int = 1) -> TrainPlan:
    """Say what :func:`run_training` would do, without starting it; missing images are no error.

    Raises
    ------
    RecipeError, UsageError
        An unknown name or a value out of range.
    """
    from mvkit.training.assembly import Start
    from mvkit.training.plan import make_plan

    recipe = resolve_recipe(request)
    sources, problem = None, None
    try:
        sources = open_sources(request, recipe)
    except DataError as error:
        problem = str(error)
    return make_plan(
        recipe,
        sources,
        problem=problem,
        folder=run_folder(request, recipe),
        start=Start(request.weights, request.home),
        shares=(processes, request.machine.accumulate),
    )


def resolve_recipe(request: TrainRequest) -> TrainRecipe:
    """Return the recipe of a request with its changes.

    Raises
    ------
    RecipeError
        With a line for every problem.
    """
    from mvkit.recipes import load_recipe
    from mvkit.training.recipe import TrainRecipe

    return load_recipe(TrainRecipe, request.recipe, request.overrides)


def run_folder(request: TrainRequest, recipe: TrainRecipe) -> Path:
    """Return the folder of the run: as asked, or ``runs/NAME``."""
    return request.out if request.out is not None else Path(_RUNS) / recipe.name


def open_sources(request: TrainRequest, recipe: TrainRecipe) -> Sources:
    """Open the images of a run; validation images may be missing.

    Raises
    ------
    DataError
        There are no training images (names the command that prepares them), or files are damaged.
    """
    from mvkit.images.loader import open_images
    from mvkit.paths import images_dir
    from mvkit.training.assembly import Sources

    name = recipe.data.images
    place = request.images if request.images is not None else images_dir(name, request.home)
    prepare = f"mvkit prep {name} --images DIR"
    if not place.is_dir():
        check_link(place)
        if request.images is not None:
            raise DataError(f"{place}: no such folder (--images)\nprepare the images first: {prepare}")
        raise DataError(
            f"{place} is missing: the images of recipe '{recipe.name}' are not on this machine\n"
            f"run: {prepare} (or train on a folder of images directly: --images DIR)"
        )
    # Whether there are any, not whether they are whole: damaged ones, and links to nothing, are an error.
    has_val = any(os.path.lexists(place / name) for name in _VALIDATION)
    return Sources(open_images(place, "train"), open_images(place, "val") if has_val else None)


def _neural_evaluator(
    settings: NeuralPredictivity, name: str, encoder: VisionModel, *, home: Path | None
) -> Evaluator:
    # Needs features and scoring, which no other run should wait for.
    from mvkit.pipeline.predictivity import build_neural_evaluator

    return build_neural_evaluator(settings, name, encoder=encoder, home=home)
