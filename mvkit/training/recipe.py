"""The training recipe: science only, no device, worker count or path."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mvkit.errors import UsageError, suggest
from mvkit.images.settings import VALIDATION, Patches, ViewsSettings
from mvkit.objectives.registry import OBJECTIVES, ObjectiveSettings
from mvkit.recipes import NAME_PATTERN, Count, KeyedError, NotNegative, Positive, Settings


def _join_topics(value: object) -> object:
    """Join notes by topic to one text: ``{network: ..., settings: ...}``."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        return value
    return " ".join(f"{topic[:1].upper()}{topic[1:]}: {text.rstrip('.')}." for topic, text in value.items())


#: A text, or notes by topic, which are merged with those of a base one by one.
Notes = Annotated[str, BeforeValidator(_join_topics)]


class ModelSettings(Settings):
    """The network to train.

    ``architecture`` is a name that ``mvkit.load_model`` knows; ``weights`` is
    where training starts ("random" or "released"; a file is given on the command line).
    ``encoder``: of an autoencoder or a depth network, the network that these weights are of: the encoder
    starts from them, the decoder from random ones.
    """

    architecture: str
    weights: Literal["random", "released"] = "random"
    encoder: str | None = None


class NeuralData(Settings):
    """Recordings whose stimuli are the images: those of one training split of ``mvkit score``.

    ``dataset``: a name or a neural file; ``areas``: None for all; ``selection``: of the units;
    ``train_fraction`` and ``split_seed``: the split, as in scoring recipes.
    """

    dataset: str = "neuropixels"
    areas: tuple[str, ...] | None = None
    selection: Literal["code", "paper", "none"] = "code"
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    split_seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


class DataSettings(Settings):
    """The images: the name of the prep recipe whose files are read (``mvkit prep NAME``), or of recordings.

    ``drop_last``: the images that fill no whole batch are left out of an epoch (others each time).
    """

    images: str | None = "imagenet_64"
    neural: NeuralData | None = None
    drop_last: bool = True


class Sgd(Settings):
    """Stochastic gradient descent with momentum; learning rate at the recipe's batch size."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Positive
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.0
    nesterov: bool = False


class Adam(Settings):
    """Adam, or AdamW with decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0


class Lars(Settings):
    """Layer-wise adaptive rates (You et al. 2017).

    ``exclude`` says which parameters are neither adapted nor decayed:
    "bias_and_norm": biases and the scales and shifts of norms, by type of module;
    "published": by name as in the reference (biases, and what belongs to a ``bn``, ``bn0``, ``gn1`` ...),
    so that of SimCLR only the head's norms are excluded, and the scales of the network's norms are adapted
    and decayed wherever the network numbers its layers; "none": none.
    ``excluded_learning_rate`` gives excluded parameters a rate of their own, on the same schedule.
    """

    name: Literal["lars"] = "lars"
    learning_rate: Positive
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.0
    trust_coefficient: Positive = 0.001
    epsilon: NotNegative = 0.0
    nesterov: bool = False
    exclude: Literal["bias_and_norm", "published", "none"] = "bias_and_norm"
    excluded_learning_rate: Positive | None = None


Optimiser = Annotated[Sgd | Adam | Lars, Field(discriminator="name")]


class _Warmup(Settings):
    """Linear warm-up from ``warmup_ratio`` times the rate; ``unit``: how often the rate changes."""

    warmup_epochs: NotNegative = 0.0
    warmup_ratio: NotNegative = 0.0
    unit: Literal["epoch", "step"] = "epoch"


class StepSchedule(_Warmup):
    """The rate is multiplied by ``factor`` at each milestone (epochs, 0-based)."""

    name: Literal["step"] = "step"
    milestones: tuple[Count, ...] = ()
    factor: Positive = 0.1


class CosineSchedule(_Warmup):
    """The rate follows half a cosine down to ``final_ratio`` times itself.

    ``rate_at``: an epoch (or step) has the rate of the curve at its "beginning" (the first one the full rate)
    or at its "end" (the last one the final rate; always so with a warm-up).
    """

    name: Literal["cosine"] = "cosine"
    final_ratio: NotNegative = 0.0
    rate_at: Literal["beginning", "end"] = "beginning"


class ConstantSchedule(_Warmup):
    """The rate stays."""

    name: Literal["constant"] = "constant"


Schedule = Annotated[StepSchedule | CosineSchedule | ConstantSchedule, Field(discriminator="name")]


class TrainSettings(Settings):
    """Length, batch (of all processes together) and seed.

    ``sync_norm``: batch norms see the global batch (else each process its own rows).
    """

    epochs: Count
    batch_size: Count
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    sync_norm: bool = True
    max_steps: Count | None = None


class CheckpointSettings(Settings):
    """When checkpoints are written, and which one represents the run.

    ``every_epochs``: a numbered one is written; ``every_steps``: ``last.pt`` is
    renewed, besides every epoch's end and an interruption. ``best_by``: the
    evaluation's number that decides which epoch is ``best.pt``, for example
    ``validation_loss.top1``; None: the main number of the first item of
    ``evaluate`` (where that is empty: the lowest training loss). ``score``: whether
    the run's folder, given as a model, stands for ``last.pt`` or ``best.pt``.
    """

    every_epochs: Count | None = 10
    every_steps: Count | None = None
    score: Literal["last", "best"] = "last"
    best_by: str | None = None


class BankNeighbours(Settings):
    """Label of the nearest neighbour in the memory bank (instance recognition)."""

    name: Literal["bank_neighbours"] = "bank_neighbours"
    every_epochs: Count = 1


class FeatureNeighbours(Settings):
    """k nearest neighbours on features of a layer (None: the output), weighted by cosine similarity."""

    name: Literal["feature_neighbours"] = "feature_neighbours"
    every_epochs: Count = 1
    layer: str | None = None
    k: Count = 20
    temperature: Positive = 0.07
    max_images: Count = 50000


class LinearProbe(Settings):
    """A linear classifier trained on detached features beside the objective."""

    name: Literal["linear_probe"] = "linear_probe"
    every_epochs: Count = 1
    layer: str | None = None
    learning_rate: Positive = 0.1


class ValidationLoss(Settings):
    """The objective's own loss on the validation images.

    ``views``: how they are shown; None: as ``validation`` says, or, where the objective needs other views
    than those, as in training.
    """

    name: Literal["validation_loss"] = "validation_loss"
    every_epochs: Count = 1
    views: ViewsSettings | None = None


class NeuralPredictivity(Settings):
    """Noise-corrected predictivity on a neural file, quick protocol.

    Layers: names, patterns or ``published``; None for the model's default list.
    """

    name: Literal["neural_predictivity"] = "neural_predictivity"
    every_epochs: Count = 10
    dataset: str = "neuropixels"
    layers: tuple[str, ...] | None = None
    areas: tuple[str, ...] | None = None
    recipe: str = "score/quick"


class UnitPredictions(Settings):
    """Correlation of predicted and measured responses (neural readout) on training and test images."""

    name: Literal["unit_predictions"] = "unit_predictions"
    every_epochs: Count = 10


Evaluation = Annotated[
    BankNeighbours | FeatureNeighbours | LinearProbe | ValidationLoss | NeuralPredictivity | UnitPredictions,
    Field(discriminator="name"),
]


def evaluation_names(evaluate: Sequence[Evaluation]) -> list[str]:
    """Name evaluations by kind, and by layer (or dataset) where a kind occurs more than once."""
    kinds = Counter(settings.name for settings in evaluate)
    return [
        settings.name
        if kinds[settings.name] == 1
        else f"{settings.name}[{getattr(settings, 'layer', None) or getattr(settings, 'dataset', 'final')}]"
        for settings in evaluate
    ]


class TrainRecipe(Settings):
    """Everything that decides what a training run computes."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    source: Notes
    notes: Notes = ""
    model: ModelSettings
    data: DataSettings = DataSettings()
    views: ViewsSettings
    validation: ViewsSettings = VALIDATION
    objective: ObjectiveSettings
    optimiser: Optimiser
    schedule: Schedule = ConstantSchedule()
    train: TrainSettings
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluate: tuple[Evaluation, ...] = ()

    @model_validator(mode="after")
    def _fill_in(self) -> TrainRecipe:
        """Fill in what follows from other sections.

        Validation views have the size and normalisation of training views where they give none; where nothing
        is evaluated, the best epoch is that of the lowest training loss.
        """
        as_trained = {"size_px": self.input_px, "mean": self.views.mean, "std": self.views.std}
        given = self.validation.model_fields_set
        missing = {key: value for key, value in as_trained.items() if key not in given}
        # The recipe is frozen for everybody else.
        object.__setattr__(self, "validation", self.validation.model_copy(update=missing))
        if not self.evaluate:
            object.__setattr__(self, "checkpoint", self.checkpoint.model_copy(update={"best_by": None}))
        return self

    @property
    def input_px(self) -> int:
        """Side of what the network sees in training."""
        expand = self.views.expand
        return expand.patch_px if isinstance(expand, Patches) else self.views.size_px

    @model_validator(mode="after")
    def _check_sections(self) -> TrainRecipe:
        """Report every contradiction between sections at once."""
        sections = (_data, _views, _validation, _schedule, _optimiser, _evaluation, _checkpoint)
        problems = [problem for check in sections for problem in check(self)]
        if problems:
            raise KeyedError(problems)
        return self


#: Keys that change nothing of what is computed.
_NO_SCIENCE = ("name", "source", "notes", "checkpoint")


def science(recipe: TrainRecipe) -> dict[str, Any]:
    """Return what decides the numbers of a run, as JSON values."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key not in _NO_SCIENCE}


def science_digest(recipe: TrainRecipe) -> str:
    """Return the sha256 (hexadecimal) of what a recipe computes.

    Name, source, notes and the rhythm of checkpoints do not count; device,
    precision and versions are recorded beside it.
    """
    text = json.dumps(science(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_text(recipe: TrainRecipe) -> str:
    """Return the whole resolved recipe as JSON text, for checkpoints."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True)


def differences(before: Mapping[str, Any], now: TrainRecipe) -> list[str]:
    """Return what was changed, a line each: ``train.epochs: 10 before, 20 now``.

    Parameters
    ----------
    before
        An older recipe as JSON values.
    now
        The recipe of today.
    """
    old = dict(_flat({key: value for key, value in before.items() if key not in _NO_SCIENCE}))
    new = dict(_flat(science(now)))
    keys = [*new, *(key for key in old if key not in new)]
    return [
        f"{key}: {_shown(old, key)} before, {_shown(new, key)} now"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


_ABSENT = object()


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for position, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{position}]")
    else:
        yield prefix, value


# Checks between sections of a recipe: each yields (key, what is wrong with it).


def _data(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name, data = recipe.objective.name, recipe.data
    predicts_units = OBJECTIVES[name].predicts_units
    if predicts_units != (data.neural is not None):
        needed = "recordings (dataset: simulated, say)" if predicts_units else "none: it predicts no units"
        yield "data.neural", f"{name} needs {needed}"
    elif predicts_units != (data.images is None):
        needed = "null, as the images are the recordings'" if predicts_units else "the name of a prep recipe"
        yield "data.images", f"{name} needs {needed}"


def _views(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name = recipe.objective.name
    row = OBJECTIVES[name]
    n_views = len(recipe.views.each())
    if n_views != row.n_views:
        yield "views.views", f"{name} needs {row.n_views} of an image, got {n_views} (copies counted)"
    expand = recipe.views.expand.name if recipe.views.expand else None
    if expand != row.expansion:
        needed = f"'{row.expansion}'" if row.expansion else "none"
        yield "views.expand", f"{name} needs {needed}, got {expand!r}"


def _validation(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    """Check that validation views, the network's preprocessing, have size and normalisation of training."""
    validation, views = recipe.validation, recipe.views
    first = validation.views[0]
    if len(validation.each()) > 1 or first.steps or first.crop.name != "centre" or first.crop.crop_px is None:
        needed = "one view, a centre crop with crop_px and without steps: it is the network's preprocessing"
        yield "validation.views", f"must be {needed}"
    if validation.size_px != recipe.input_px:
        key = "views.expand.patch_px" if recipe.input_px != views.size_px else "views.size_px"
        yield (
            "validation.size_px",
            f"is {validation.size_px}, but the network is trained on {recipe.input_px} px ({key}); "
            "it is scored at the size of its validation views, so both must be equal",
        )
    for name in ("mean", "std"):
        own, trained = list(getattr(validation, name)), list(getattr(views, name))
        if own != trained:
            yield f"validation.{name}", f"is {own}, but views.{name} is {trained}; both must be equal"


def _schedule(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    schedule, epochs = recipe.schedule, recipe.train.epochs
    if schedule.warmup_epochs >= epochs and schedule.warmup_epochs > 0:
        yield (
            "schedule.warmup_epochs",
            f"must be below train.epochs ({epochs}), got {schedule.warmup_epochs:g}",
        )
    if schedule.name != "step":
        return
    milestones = schedule.milestones
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        yield "schedule.milestones", f"must ascend, got {list(milestones)}"
    late = [milestone for milestone in milestones if milestone >= epochs]
    if late:
        advice = "for a trial run set train.max_steps"
        yield "schedule.milestones", f"must be below train.epochs ({epochs}), got {late}; {advice}"


def _optimiser(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    optimiser = recipe.optimiser
    if optimiser.name == "sgd" and optimiser.nesterov and optimiser.momentum == 0:
        yield "optimiser.nesterov", "needs a momentum above 0"
    if optimiser.name == "lars" and optimiser.excluded_learning_rate and optimiser.exclude == "none":
        yield "optimiser.excluded_learning_rate", "needs excluded parameters (exclude: bias_and_norm)"


def _evaluation(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    name = recipe.objective.name
    row = OBJECTIVES[name]
    for position, evaluation in enumerate(recipe.evaluate):
        key = f"evaluate[{position}].name"
        if evaluation.name == "bank_neighbours" and name != "instance_recognition":
            yield key, f"{name} has no memory bank; use feature_neighbours"
        if evaluation.name == "validation_loss" and not row.scores_new_images:
            instead = "unit_predictions" if row.predicts_units else "bank_neighbours"
            yield key, f"{name} looks images up in the training set; use {instead}"
        if evaluation.name == "unit_predictions" and not row.predicts_units:
            yield key, f"{name} predicts no units; use neural_predictivity"
        if evaluation.name == "neural_predictivity" and row.predicts_units:
            yield key, f"{name} has seen the training images of one split only; use unit_predictions"
        if evaluation.name == "validation_loss" and evaluation.views is not None:
            expand = evaluation.views.expand.name if evaluation.views.expand else None
            if (len(evaluation.views.each()), expand) != (row.n_views, row.expansion):
                needed = f"{row.n_views} of an image, expand: {row.expansion or 'none'}"
                yield f"evaluate[{position}].views", f"{name} needs {needed}"


def _checkpoint(recipe: TrainRecipe) -> Iterator[tuple[str, str]]:
    best_by = recipe.checkpoint.best_by
    if best_by is None:
        return
    named = zip(evaluation_names(recipe.evaluate), recipe.evaluate, strict=True)
    valid = [number for name, evaluation in named for number in _numbers(name, evaluation, recipe)]
    if best_by not in valid:
        shown = ", ".join(valid[:12]) or "nothing: evaluate is empty"
        yield "checkpoint.best_by", f"'{best_by}' is not measured{suggest(best_by, valid)}; measured: {shown}"


def _numbers(name: str, evaluation: Evaluation, recipe: TrainRecipe) -> list[str]:
    """Return the numbers by which an evaluation can choose the best epoch, ``evaluation.number``."""
    kind = evaluation.name
    if evaluation.name == "neural_predictivity":
        return [f"{name}.{key}" for key in ("all", *(evaluation.areas or ()))]
    if kind == "unit_predictions":
        return [f"{name}.train"]
    if kind == "validation_loss":
        return [f"{name}.{key}" for key in (*OBJECTIVES[recipe.objective.name].accuracies, "loss")]
    return [f"{name}.{key}" for key in (("top1",) if kind == "bank_neighbours" else ("top1", "top5"))]


def check_processes_divide(batch_size: int, n_processes: int) -> None:
    """Check that processes can share a global batch equally.

    Raises
    ------
    UsageError
        Names numbers of processes that can.
    """
    if batch_size % n_processes:
        possible = [n for n in range(1, n_processes + 1) if batch_size % n == 0]
        raise UsageError(
            f"a batch of {batch_size} images cannot be shared equally by {n_processes} processes\n"
            f"use {' or '.join(map(str, possible[-2:]))} processes, or set train.batch_size to a multiple of "
            f"{n_processes}"
        )
