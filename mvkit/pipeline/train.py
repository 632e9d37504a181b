"""One training run as a command describes it, with neural predictivity among its evaluations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mvkit.distributed import all_reduce, is_main_process
from mvkit.errors import DataError
from mvkit.features.layers import layers_to_record
from mvkit.files import check_link
from mvkit.models import VisionModel
from mvkit.neural import NeuralDataset, open_dataset
from mvkit.pipeline.request import choose_recordings
from mvkit.pipeline.score import score
from mvkit.recipes import load_recipe
from mvkit.scoring import ScoreSettings
from mvkit.scoring.results import ALL_AREAS
from mvkit.training.evaluation import EvaluationContext, Evaluator
from mvkit.training.recipe import NeuralPredictivity

if TYPE_CHECKING:
    from mvkit.models.base import VisionModel as VisionModel_
    from mvkit.training.assembly import Sources
    from mvkit.training.evaluation import Evaluator
    from mvkit.training.log import Callbacks, FitReport
    from mvkit.training.plan import TrainPlan
    from mvkit.training.recipe import NeuralPredictivity, TrainRecipe
    from mvkit.training.step import PrecisionName


class NeuralEvaluator(Evaluator):
    """Noise-corrected predictivity of chosen layers on a neural file, as ``mvkit score`` computes it.

    The first process scores, the others wait for its numbers.

    Parameters
    ----------
    settings
        Dataset, layers, areas.
    name
        Name in the log.
    dataset
        The recordings.
    protocol
        Splits, halvings and map.
    n_jobs
        Worker processes of scoring; None: one per core.
    """

    headline = ALL_AREAS

    def __init__(
        self,
        settings: NeuralPredictivity,
        *,
        name: str,
        dataset: NeuralDataset,
        protocol: ScoreSettings,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._settings = settings
        self._dataset = dataset
        self._protocol = protocol
        self._n_jobs = n_jobs
        recordings = choose_recordings(dataset, settings.areas)
        self._keys = (*dict.fromkeys(recording.area for recording in recordings), ALL_AREAS)

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return each area's median score with its best layer, and ``all``: over the units of all areas.

        As in the paper, best layers are chosen on the test images; an area without any score is NaN.
        """
        medians = torch.zeros(len(self._keys), dtype=torch.float64, device=context.device)
        if is_main_process():
            measured = self._score(context)
            medians.copy_(torch.tensor([measured[key] for key in self._keys], dtype=torch.float64))
        return dict(zip(self._keys, all_reduce(medians).tolist(), strict=True))

    def _score(self, context: EvaluationContext) -> dict[str, float]:
        scores = score(
            context.encoder,
            self._dataset,
            layers=self._settings.layers,
            areas=self._settings.areas,
            n_jobs=self._n_jobs,
            device=str(context.device),
            settings=self._protocol,
            # The weights are other ones every time: nothing kept would ever be asked for again.
            cache=False,
        )
        best = scores.best_layers()
        return dict(zip(best["area"], best["median"], strict=True))


def build_neural_evaluator(
    settings: NeuralPredictivity,
    name: str,
    *,
    encoder: VisionModel,
    home: Path | None = None,
    n_jobs: int | None = None,
) -> Evaluator:
    """Open the recordings and check everything that training would otherwise stumble over epochs later.

    Parameters
    ----------
    settings
        What the recipe says.
    name
        Name in the log.
    encoder
        The network that will be trained.
    home
        mvkit's home directory, where datasets lie.
    n_jobs
        Worker processes of scoring; None: one per core.

    Raises
    ------
    DataError
        If the recordings are not there (names ``mvkit fetch neural --dataset ...``) or are damaged.
    UsageError, RecipeError
        If a layer, an area, a dataset or the scoring recipe is unknown.
    """
    protocol = load_recipe(ScoreSettings, settings.recipe)
    layers_to_record(encoder, settings.layers)
    dataset = open_dataset(settings.dataset, home=home)
    return NeuralEvaluator(settings, name=name, dataset=dataset, protocol=protocol, n_jobs=n_jobs)


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
    from mvkit.training.assembly import Start, assemble, choose_device, default_workers
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
    settings: NeuralPredictivity, name: str, encoder: VisionModel_, *, home: Path | None
) -> Evaluator:

    return build_neural_evaluator(settings, name, encoder=encoder, home=home)
