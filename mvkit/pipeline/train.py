"""One training run: from a request to the loop, or to a plan of it.

What can be wrong with a request is checked before torch is imported, so that the answer comes at once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.display import ProgressOption, open_progress
from mvkit.errors import DataError, RecipeError, UsageError, suggest, wording
from mvkit.files import check_link, check_output_folder, plain
from mvkit.machine import available_cores, check_device, choose_device, describe_gpu
from mvkit.models.names import WEIGHT_CHOICES, checkpoint_to_resume, find_checkpoint, split_key
from mvkit.models.registry import RELEASED, SHORT_NAMES, is_model
from mvkit.paths import expand, images_dir
from mvkit.recipes import load_recipe
from mvkit.training.recipe import NeuralPredictivity, TrainRecipe, UnitPredictions, science_digest

if TYPE_CHECKING:
    from mvkit.images.loader import ImageSource
    from mvkit.models.base import VisionModel
    from mvkit.pipeline.neural_readout import NeuralSplit
    from mvkit.training.evaluation import Evaluator
    from mvkit.training.log import Callbacks, FitReport
    from mvkit.training.plan import TrainPlan
    from mvkit.training.step import PrecisionName

log = logging.getLogger(__name__)

#: Default folder of runs, in the current directory.
_RUNS = "runs"
#: Folders of packaged recipes of other commands, and the command.
_OTHER_RECIPES = {
    "score": "scoring recipe: mvkit score MODEL --recipe",
    "prep": "recipe of images: mvkit prep",
}
#: Files that are there if there are validation images: betons and folders, CIFAR-10's.
_VALIDATION = ("val", "val.beton", "test_batch", "cifar-10-batches-py")


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
    home
        Directory of mvkit's files.
    device
        "cpu", "cuda", ...; None or "auto": a GPU if there is one.
    workers
        Loader threads of a process; None: its share of the cores.
    accumulate, precision, channels_last, compile
        See :class:`mvkit.training.step.StepSettings`.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    images: Path | None = None
    out: Path | None = None
    resume: str = "auto"
    weights: str | None = None
    tensorboard: bool = False
    home: Path | None = None
    # On what it runs; changes nothing of what is computed but for rounding.
    device: str | None = None
    workers: int | None = None
    accumulate: int = 1
    precision: PrecisionName = "fp32"
    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True, repr=False)
class TrainReport:
    """Result of a run.

    Attributes
    ----------
    recipe, digest
        Name and digest of the recipe.
    fit
        Report of the loop.
    notes
        What differs from a float32 step on the whole batch at once.
    """

    recipe: str
    digest: str
    fit: FitReport
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Folder of the run; :func:`mvkit.load_model` and :func:`mvkit.score` take it as a model."""
        return self.fit.folder

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric -> value, of the last evaluation."""
        return self.fit.metrics

    def __repr__(self) -> str:
        """Describe the run in one line."""
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        state = "interrupted at step" if self.fit.interrupted else "step"
        return (
            f"TrainReport({self.recipe}: {state} {self.fit.step} of {self.fit.n_steps}, "
            f"loss {self.fit.loss:.4g}{metrics}; {self.folder})"
        )

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        from mvkit.display import html_table

        fit = self.fit
        state = "interrupted" if fit.interrupted else "finished"
        rows: list[tuple[str, object]] = [
            ("steps", f"{fit.step:,} of {fit.n_steps:,}"),
            ("epochs", fit.epochs),
            ("loss of the last step", fit.loss),
            *self.metrics.items(),
            ("folder", self.folder),
        ]
        return html_table(f"{self.recipe}: training {state}", ("", ""), rows)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"recipe": self.recipe, "digest": self.digest, "notes": self.notes, **asdict(self.fit)}


def train(  # noqa: PLR0913
    recipe: str | os.PathLike[str],
    overrides: Mapping[str, object] | Sequence[str] = (),
    *,
    images: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] = "auto",
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    home: Path | None = None,
    progress: ProgressOption = None,
) -> TrainReport:
    """Train a network as a recipe says, in this process; the same call goes on with what it finds.

    Ctrl-C (a notebook's "interrupt") saves and ends the run: the report says so.

    Parameters
    ----------
    recipe
        Packaged name (``"demo"``, ``"dual_stream_ir"``) or the path of a file.
    overrides
        Changes to it: ``{"train.epochs": 1}``, or as on the command line ``["train.epochs=1"]``.
    images
        Folder of betons or of images; None: where ``mvkit prep`` puts what the recipe names.
    out
        Folder of the run; None: ``runs/NAME``.
    resume
        ``"auto"``: go on from ``last.pt`` of the folder if there is one; ``"never"``; or the path of a
        checkpoint.
    weights
        ``"random"``, ``"released"`` or the path of a checkpoint to start from; None: as the recipe says.
    device
        ``"cpu"``, ``"cuda"``, ...; None: a GPU if there is one.
    workers
        Threads that load images; None: one per core.
    home
        mvkit's home directory; None means the usual one.
    progress
        Whether to show a bar of the steps; None: in notebooks and on terminals. Or a function, which is
        called with (steps done, steps in all).

    Returns
    -------
    TrainReport
        ``folder`` of log and checkpoints, ``metrics`` of the last evaluation, and ``fit`` with steps, losses
        and seconds.

    Raises
    ------
    RecipeError, UsageError
        An unknown name, key or value; everything is checked before training starts.
    DataError
        The images are missing (names the command that prepares them) or unfit.
    CheckpointError
        Weights or the checkpoint to resume from are missing, damaged or of another run.
    FitError
        The loss is not finite.
    """
    request = TrainRequest(
        recipe=os.fspath(recipe),
        overrides=_override_texts(overrides),
        images=None if images is None else expand(images),
        out=None if out is None else expand(out),
        resume=os.fspath(resume),
        weights=None if weights is None else os.fspath(weights),
        home=home,
        device=device,
        workers=workers,
    )
    check_request(request)

    from mvkit.training.log import Callbacks

    with open_progress(progress, f"training {request.recipe}") as bar:
        callbacks = Callbacks(
            message=log.info,
            pace=lambda pace: None if bar is None else bar(pace.step, pace.n_steps),
        )
        return run_training(request, callbacks=callbacks)


def _override_texts(overrides: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={json.dumps(plain(value))}" for key, value in overrides.items())
    if isinstance(overrides, str):
        return (overrides,)
    return tuple(overrides)


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
    recipe = check_request(request)

    from mvkit.distributed import is_main_process, process_group, world_size
    from mvkit.training.checkpoint import check_same_run, find_resume, lock_folder, write_recipe
    from mvkit.training.evaluation import RunImages
    from mvkit.training.log import Callbacks
    from mvkit.training.loop import fit
    from mvkit.training.setup import build_setup
    from mvkit.training.step import StepSettings

    callbacks = callbacks or Callbacks()
    folder = run_folder(request, recipe)
    neural = _open_neural(request, recipe)
    train, val = open_sources(request, recipe) if neural is None else (neural.train, neural.test)
    with (
        process_group(choose_device(request.device)) as device,
        lock_folder(folder) if is_main_process() else nullcontext(),
    ):
        checkpoint = find_resume(folder, request.resume)
        workers = request.workers
        if workers is None:
            workers = max(1, available_cores() // world_size())
        setup = build_setup(
            recipe,
            RunImages(
                train,
                val,
                validation_views=recipe.validation,
                batch_size=recipe.train.batch_size,
                seed=recipe.train.seed,
                workers=workers,
                device=device,
            ),
            folder=folder,
            step=StepSettings(request.accumulate, request.precision, request.channels_last, request.compile),
            weights=request.weights,
            home=request.home,
            tensorboard=request.tensorboard,
            build_neural=partial(_build_neural, home=request.home, neural=neural),
        )
        if checkpoint is not None:
            path, state = checkpoint
            check_same_run(state, setup, str(path))
            callbacks.message(f"going on from {path}, step {state['progress']['step']}")
        if is_main_process():
            write_recipe(folder, recipe)
        notes = setup.learner.step.notes()
        if (gpu := describe_gpu(device)) is not None and is_main_process():
            callbacks.message(f"device: {gpu}")
        for note in notes:
            callbacks.message(note)
        report = fit(setup, resume=checkpoint[1] if checkpoint else None, callbacks=callbacks)
        if neural is not None and not report.interrupted:
            from mvkit.pipeline.neural_readout import UNITS, write_unit_table

            write_unit_table(folder, *setup.learner.modules(), setup.images, neural)
            callbacks.message(f"wrote {folder / UNITS}: how well each unit is predicted")
    return TrainReport(recipe.name, science_digest(recipe), report, notes)


def plan_training(request: TrainRequest, *, processes: int = 1) -> TrainPlan:
    """Return what :func:`run_training` would do, without starting it; missing images are no error.

    Raises
    ------
    RecipeError, UsageError
        An unknown name or a value out of range.
    """
    recipe = load_train_recipe(request)

    from mvkit.training.plan import make_plan

    train: ImageSource | None = None
    problem = None
    try:
        neural = _open_neural(request, recipe)
        train = open_sources(request, recipe)[0] if neural is None else neural.train
    except DataError as error:
        if recipe.data.neural is not None:  # without units there is no network to plan
            raise
        problem = str(error)
    return make_plan(
        recipe,
        train,
        problem=problem,
        folder=run_folder(request, recipe),
        weights=request.weights,
        home=request.home,
        processes=processes,
        accumulate=request.accumulate,
    )


def check_request(request: TrainRequest) -> TrainRecipe:
    """Check all of a request that can be checked without torch, and return its recipe with its changes.

    Raises
    ------
    RecipeError
        With a line for every problem.
    UsageError
        There is no such kind of device, no such file of weights, or the run's folder cannot be written to.
    DataError
        There is no folder of images.
    CheckpointError
        There is no checkpoint to go on from.
    """
    recipe = load_train_recipe(request)
    if recipe.data.neural is None:
        images_folder(request, recipe)
    elif request.images is not None:
        raise UsageError(
            f"recipe {recipe.name} trains on the images of recordings\n"
            f"leave out {wording('--images', 'images')}, or give other recordings: data.neural.dataset"
        )
    check_output_folder(run_folder(request, recipe))
    checkpoint_to_resume(request.resume)
    if request.weights is not None and request.weights not in WEIGHT_CHOICES:
        path, key = split_key(request.weights)
        if key is None:
            find_checkpoint(path)
    return recipe


def load_train_recipe(request: TrainRequest) -> TrainRecipe:
    """Return the recipe of a request with its changes.

    Raises
    ------
    RecipeError, UsageError
        With a line for every problem; an unknown network or kind of device.
    """
    if request.device is not None:
        check_device(request.device)
    folder, _, name = request.recipe.partition("/")
    if folder in _OTHER_RECIPES and not Path(request.recipe).is_file():
        raise RecipeError(f"{request.recipe} is a {_OTHER_RECIPES[folder]} {name}")
    recipe = load_recipe(TrainRecipe, request.recipe, request.overrides)
    for key in ("architecture", "encoder"):
        network = getattr(recipe.model, key)
        if network is None or is_model(network):
            continue
        longer = [short for short in SHORT_NAMES if short.startswith(network)]
        advice = (
            f"; did you mean {' or '.join(longer[:3])}?"
            if longer
            else suggest(network, [*SHORT_NAMES, *RELEASED])
        )
        raise UsageError(f"model.{key}: unknown network '{network}'{advice}\nall: mvkit list models")
    return recipe


def run_folder(request: TrainRequest, recipe: TrainRecipe) -> Path:
    """Return the folder of the run: as asked, or ``runs/NAME``."""
    return request.out if request.out is not None else Path(_RUNS) / recipe.name


def images_folder(request: TrainRequest, recipe: TrainRecipe) -> Path:
    """Return the folder of a run's images.

    Raises
    ------
    DataError
        There is none, or it is empty; names the command that prepares the images.
    """
    name = str(recipe.data.images)
    folder = request.images if request.images is not None else images_dir(name, request.home)
    if folder.is_dir():
        if not any(folder.iterdir()):
            from mvkit.images.sources import no_images

            raise no_images(folder, "train")
        return folder
    check_link(folder)
    prepare, option = f"mvkit prep {name} --images DIR", wording("--images", "images=")
    if request.images is None:
        raise DataError(
            f"the images of recipe {recipe.name} are not prepared yet (no folder {folder})\n"
            f"run: {prepare} (or train on a folder of images directly: "
            + wording("--images DIR)", "images=DIR)")
        )
    if folder.exists():
        raise DataError(f"{folder} is a file; {option} takes a folder of betons or images")
    raise DataError(f"{folder}: no such folder ({option})\nprepare the images first: {prepare}")


def open_sources(request: TrainRequest, recipe: TrainRecipe) -> tuple[ImageSource, ImageSource | None]:
    """Open the training and validation images of a run; the latter may be missing.

    Raises
    ------
    DataError
        There are no training images (names the command that prepares them), or files are damaged.
    """
    folder = images_folder(request, recipe)
    from mvkit.images.loader import open_images

    # Whether there are any, not whether they are whole: damaged ones, and links to nothing, are an error.
    has_val = any(os.path.lexists(folder / name) for name in _VALIDATION)
    return open_images(folder, "train"), open_images(folder, "val") if has_val else None


def _open_neural(request: TrainRequest, recipe: TrainRecipe) -> NeuralSplit | None:
    if recipe.data.neural is None:
        return None
    from mvkit.pipeline.neural_readout import open_neural_split

    return open_neural_split(recipe.data.neural, home=request.home)


def _build_neural(
    settings: NeuralPredictivity | UnitPredictions,
    name: str,
    encoder: VisionModel,
    *,
    home: Path | None,
    neural: NeuralSplit | None,
) -> Evaluator:
    # Needs features and scoring, which no other run should wait for.
    if isinstance(settings, UnitPredictions):
        from mvkit.pipeline.neural_readout import UnitPredictionsEvaluator

        if neural is None:  # refused with the recipe
            raise RecipeError(f"evaluate: {name}: needs data.neural")
        return UnitPredictionsEvaluator(settings, name=name, neural=neural)
    from mvkit.pipeline.predictivity import build_neural_evaluator

    return build_neural_evaluator(settings, name, encoder=encoder, home=home)
