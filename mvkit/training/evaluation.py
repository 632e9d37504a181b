"""Evaluation during training: nearest neighbours, a linear probe, the validation loss, and their images."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mvkit.distributed import all_gather, all_reduce, rank, world_size
from mvkit.errors import CheckpointError, DataError, RecipeError, wording
from mvkit.images.crops import output_px
from mvkit.images.loader import ImageSource
from mvkit.images.settings import Batch, ViewsSettings
from mvkit.images.views import ViewMaker
from mvkit.models.base import VisionModel
from mvkit.objectives.base import Objective, layer_output, module_path
from mvkit.objectives.instance_recognition import MemoryBank
from mvkit.rng import hashed
from mvkit.training.recipe import (
    BankNeighbours,
    Evaluation,
    FeatureNeighbours,
    LinearProbe,
    NeuralPredictivity,
    TrainRecipe,
    UnitPredictions,
    ValidationLoss,
    evaluation_names,
)

Split = Literal["train", "val"]
#: With fewer classes than this, "among the best five" says nothing.
CLASSES_FOR_TOP5 = 6
#: Key of the draws of subsets: apart from those of views, which are keyed by (seed, epoch, index, ...).
_SUBSET_KEY = 0x5EB5E7
#: The output that a network with several has as its features.
_ENCODER_OUTPUT = "encoder_output"
#: Label of a training image that was in no batch yet.
_UNKNOWN = -1
#: Momentum of the linear probe's gradient descent.
_MOMENTUM = 0.9
#: Length of a probe's input in root mean square: with the recipe's rate of .1 and this momentum, gradient
#: descent on the cross entropy is stable (curvature at most length^2 / 2) and quick.
_LENGTH = 4.0
#: Share of a new batch in a probe's running statistics.
_SHARE = 0.1


@dataclass(frozen=True)
class EvaluationContext:
    """The run as an evaluator sees it.

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
    images: RunImages
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
        """Receive a training batch (this process's rows) after its optimisation step."""
        del encoder, batch, step

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Evaluate; all processes call this together and receive the same numbers (NaN: not defined)."""
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
        """Return whether anything is evaluated after ``epoch`` finished epochs."""
        return any(_due(evaluator, epoch, is_last=is_last) for evaluator in self.evaluators)

    def evaluate(self, context: EvaluationContext, *, is_last: bool = False) -> dict[str, float]:
        """Run the evaluators that are due; metrics are named ``evaluator.metric``.

        Encoder and objective are in eval mode meanwhile, gradients are off, and afterwards modes,
        statistics of norms and random number generators are as before.
        """
        results: dict[str, float] = {}
        for evaluator in self.evaluators:
            if _due(evaluator, context.epoch, is_last=is_last):
                with preserve_state(context.encoder, context.objective):
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


#: Builds an evaluator that needs recordings from its settings, its name and the network.
NeuralBuilder = Callable[[NeuralPredictivity | UnitPredictions, str, VisionModel], Evaluator]


def build_evaluators(
    recipe: TrainRecipe,
    *,
    encoder: VisionModel,
    images: RunImages,
    device: torch.device,
    build_neural: NeuralBuilder | None = None,
) -> EvaluatorSet:
    """Build the evaluators of a recipe.

    Parameters
    ----------
    recipe
        Its ``evaluate`` list; that it fits the objective was checked with the recipe.
    encoder
        The network, on ``device``.
    images
        The run's images.
    device
        Where the run computes.
    build_neural
        See :func:`mvkit.pipeline.predictivity.build_neural_evaluator`.

    Raises
    ------
    RecipeError
        If an evaluation is listed twice, or there is no builder for it.
    UsageError
        If a layer is unknown.
    DataError
        If it needs validation images or labels that there are not.
    """
    names = evaluation_names(recipe.evaluate)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise RecipeError(f"evaluate: {', '.join(repeated)}: listed more than once")
    evaluators: list[Evaluator] = []
    for settings, name in zip(recipe.evaluate, names, strict=True):
        if isinstance(settings, NeuralPredictivity | UnitPredictions):
            if build_neural is None:
                raise RecipeError(f"evaluate: {name}: not available here; train with mvkit train")
            evaluators.append(build_neural(settings, name, encoder))
            continue
        _check_images(settings, name, images)
        evaluators.append(
            _build(settings, name, recipe=recipe, encoder=encoder, images=images, device=device)
        )
    best_by = recipe.checkpoint.best_by
    if best_by is not None and best_by.endswith(".top5") and (images.n_classes or 0) < CLASSES_FOR_TOP5:
        raise DataError(
            f"checkpoint.best_by: {best_by} needs {CLASSES_FOR_TOP5} classes or more, the images have "
            f"{images.n_classes or 'none'}\ngive {best_by.removesuffix('5')}1"
        )
    return EvaluatorSet(evaluators, best_by=best_by)


def _build(
    settings: BankNeighbours | FeatureNeighbours | LinearProbe | ValidationLoss,
    name: str,
    *,
    recipe: TrainRecipe,
    encoder: VisionModel,
    images: RunImages,
    device: torch.device,
) -> Evaluator:
    match settings:
        case BankNeighbours():
            return BankNeighboursEvaluator(settings, name=name, n_train=images.n_images("train"))
        case FeatureNeighbours():
            # Checks that the network has this layer.
            feature_width(encoder, settings.layer, input_px=recipe.input_px)
            return FeatureNeighboursEvaluator(settings, name=name)
        case LinearProbe():
            width = feature_width(encoder, settings.layer, input_px=recipe.input_px)
            n_classes = images.n_classes or 0
            return LinearProbeEvaluator(settings, name=name, width=width, n_classes=n_classes, device=device)
        case ValidationLoss():
            return ValidationLossEvaluator(settings, name=name, views=settings.views or _views_for(recipe))


def _no_evaluation() -> str:
    return wording("--set 'evaluate=[]'", 'overrides={"evaluate": []}')


def _check_images(settings: Evaluation, name: str, images: RunImages) -> None:
    if not images.n_images("val"):
        raise DataError(
            f"evaluate: {name} needs validation images, and there are none\n"
            f"prepare the images with a val folder, or train with {_no_evaluation()}"
        )
    if images.n_classes is None and not isinstance(settings, ValidationLoss):
        raise DataError(
            f"evaluate: {name} needs labels, and the images have none\n"
            f"prepare the images from folders of classes, or train with {_no_evaluation()}"
        )


def _views_for(recipe: TrainRecipe) -> ViewsSettings:
    """Choose validation views unless the objective needs more of them than they are."""
    same_number = len(recipe.validation.each()) == len(recipe.views.each())
    is_suitable = same_number and recipe.validation.expand == recipe.views.expand
    return recipe.validation if is_suitable else recipe.views


class BankNeighboursEvaluator(Evaluator):
    """Validation images take the label of the training image whose bank entry is nearest.

    The labels of training images are recorded from training batches; a neighbour
    that was in no batch yet counts as wrong.

    References
    ----------
    Wu, Xiong, Yu & Lin (2018), CVPR, section 3.4, with k = 1; ``goldens/losses``,
    ``instance_discrimination`` (``knn:``).
    """

    headline = "top1"

    def __init__(self, settings: BankNeighbours, *, name: str, n_train: int) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._labels = torch.full((n_train,), _UNKNOWN, dtype=torch.int64)

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Record the labels of the batch, those of all processes: every process has the same state."""
        del encoder, step
        if batch.label is not None:
            index_and_label = all_gather(torch.stack([batch.index, batch.label], dim=1)).cpu()
            self._labels[index_and_label[:, 0]] = index_and_label[:, 1]

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1``: the fraction of validation images with the label of their neighbour."""
        images, bank = context.images, _bank(context.objective)
        known = self._labels.to(context.device)
        counts = torch.zeros(2, dtype=torch.float64, device=context.device)
        with images.batches("val", np.arange(images.n_images("val"), dtype=np.int64)) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels to compare with")
                embedded = context.objective.embed(context.encoder, batch)[0]
                labels = known[bank.nearest(embedded)[1][:, 0]]
                counts[0] += (labels == batch.label).sum()
                counts[1] += len(labels)
        n_correct, n_all = all_reduce(counts).tolist()
        return {"top1": n_correct / n_all if n_all else math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Return the labels recorded so far."""
        return {"labels": self._labels.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the labels."""
        self._labels.copy_(state["labels"])


def _bank(objective: nn.Module) -> MemoryBank:
    bank = getattr(objective, "bank", None)
    if not isinstance(bank, MemoryBank):
        raise DataError(f"{type(objective).__name__} has no memory bank to look up neighbours in")
    return bank


class FeatureNeighboursEvaluator(Evaluator):
    """k nearest neighbours by cosine similarity, each with the weight exp(similarity / temperature).

    Neighbours are training images, queries are validation images, both in
    validation views and at most ``max_images`` of each (a fixed random part).
    A process holds the features of its validation images, so memory is
    max_images / processes x features x 4 bytes.

    References
    ----------
    Wu, Xiong, Yu & Lin (2018), Unsupervised feature learning via non-parametric instance
    discrimination, CVPR, section 3.4.
    """

    headline = "top1"

    def __init__(self, settings: FeatureNeighbours, *, name: str) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._settings = settings

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1`` (and ``top5``): fractions of validation images whose class wins the vote."""
        images, limit = context.images, self._settings.max_images
        n_classes = images.n_classes
        if n_classes is None:
            raise DataError(f"{self.name}: the images have no labels to compare with")
        queries, labels = self._queries(context)
        table = NeighbourTable(queries, k=min(self._settings.k, images.n_images("train"), limit))
        chosen = fixed_subset(images.n_images("train"), limit, context.seed)
        with images.batches("train", chosen) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the training images have no labels")
                rows = functional.normalize(self._features(context, batch.views[0]), dim=1)
                table.offer(all_gather(rows), all_gather(batch.label))
        count = AccuracyCount(n_classes, context.device)
        count.add(table.votes(n_classes, temperature=self._settings.temperature), labels)
        return count.fractions()

    def _queries(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        """Return normalised features and labels of this process's validation images."""
        rows, labels = [], []
        chosen = fixed_subset(context.images.n_images("val"), self._settings.max_images, context.seed)
        with context.images.batches("val", chosen) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels")
                rows.append(functional.normalize(self._features(context, batch.views[0]), dim=1))
                labels.append(batch.label)
        return torch.cat(rows), torch.cat(labels)

    def _features(self, context: EvaluationContext, views: Tensor) -> Tensor:
        return layer_features(context.encoder, views, self._settings.layer)


class NeighbourTable:
    """The k nearest neighbours of every query so far, while candidates come in parts.

    Parameters
    ----------
    queries
        float32 (n_queries, n_features), rows of length 1.
    k
        Neighbours of every query.
    """

    def __init__(self, queries: Tensor, *, k: int) -> None:
        self._queries = queries
        self._k = k
        self._similarities = queries.new_empty(len(queries), 0)
        self._labels = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    def offer(self, candidates: Tensor, labels: Tensor) -> None:
        """Compare all queries with these candidates (rows of length 1)."""
        similarities = torch.cat([self._similarities, self._queries @ candidates.T], dim=1)
        known = torch.cat([self._labels, labels.expand(len(self._queries), -1)], dim=1)
        best = similarities.topk(min(self._k, similarities.shape[1]), dim=1)
        self._similarities = best.values
        self._labels = known.gather(1, best.indices)

    def votes(self, n_classes: int, *, temperature: float) -> Tensor:
        """Return the sum of weights for every class, (n_queries, n_classes), up to a factor per row."""
        # The nearest neighbour's weight is taken out as a factor: exp(1 / temperature) may overflow.
        weights = ((self._similarities - self._similarities[:, :1]) / temperature).exp()
        return weights.new_zeros(len(weights), n_classes).scatter_add_(1, self._labels, weights)


class LinearProbeEvaluator(Evaluator):
    """Trains a linear map from detached features to classes; tests it on the validation images.

    Features are those of the first training view, computed in eval mode after the optimisation
    step: nothing of the probe reaches the network. The map starts at zero, so it needs no seed;
    its gradient is that of the global batch, so all processes keep the same map. SGD with
    momentum .9 and no decay.

    Parameters
    ----------
    settings
        Layer and learning rate.
    name
        Name in the log.
    width, n_classes
        Features of the layer, classes of the images.
    device
        Where the run computes.
    """

    headline = "top1"

    def __init__(
        self, settings: LinearProbe, *, name: str, width: int, n_classes: int, device: torch.device
    ) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._layer = settings.layer
        self._n_classes = n_classes
        self._inputs = ProbeInputs(width).to(device)
        # Drawing weights would move the global generator, only to be overwritten.
        self.classifier = cast(
            nn.Linear,
            nn.utils.skip_init(nn.Linear, width, n_classes, device=device),  # type: ignore[no-untyped-call]
        )
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self._optimiser = torch.optim.SGD(
            self.classifier.parameters(), lr=settings.learning_rate, momentum=_MOMENTUM
        )
        self._train_count = AccuracyCount(n_classes, device, shared=True)

    def observe(self, encoder: nn.Module, batch: Batch, *, step: int) -> None:
        """Take one step of gradient descent on the classifier."""
        del step
        if batch.label is None:
            raise DataError(f"{self.name}: the training images have no labels")
        with preserve_state(encoder):
            features = layer_features(encoder, batch.views[0], self._layer)
            self._inputs.learn(features)
        inputs = self._inputs(features)
        with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
            logits = self.classifier(inputs)
            summed = functional.cross_entropy(logits, batch.label, reduction="sum")
            gradients = torch.autograd.grad(summed, list(self.classifier.parameters()))
        n_rows = all_reduce(inputs.new_tensor([float(len(inputs))]))
        for parameter, gradient in zip(self.classifier.parameters(), gradients, strict=True):
            parameter.grad = all_reduce(gradient) / n_rows
        self._optimiser.step()
        self._train_count.add(logits.detach(), batch.label)

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``top1`` (and ``top5``) on validation images, and on training batches since last time.

        The latter, ``train_top1``, are predictions made before learning from the batch.
        """
        count = AccuracyCount(self._n_classes, context.device)
        indices = np.arange(context.images.n_images("val"), dtype=np.int64)
        with context.images.batches("val", indices) as batches:
            for batch in batches:
                if batch.label is None:
                    raise DataError(f"{self.name}: the validation images have no labels")
                features = layer_features(context.encoder, batch.views[0], self._layer)
                count.add(self.classifier(self._inputs(features)), batch.label)
        in_training = {f"train_{key}": value for key, value in self._train_count.fractions().items()}
        self._train_count.clear()
        return {**count.fractions(), **in_training}

    def state_dict(self) -> dict[str, Any]:
        """Return classifier, statistics, optimiser and counts."""
        return {
            "classifier": self.classifier.state_dict(),
            "inputs": self._inputs.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "met": self._train_count.counts.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.classifier.load_state_dict(state["classifier"])
        self._inputs.load_state_dict(state["inputs"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._train_count.counts.copy_(state["met"])


class ProbeInputs(nn.Module):
    """Features standardised one by one, then all divided so that an input has length 4 on average.

    So one learning rate suits layers of any width and scale. Means and variances are
    those of the global batch while the probe learns, running ones when it is tested.

    Parameters
    ----------
    width
        Number of features.
    """

    mean: Tensor
    variance: Tensor
    share: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        # The share of a new batch in the running statistics: all of the first one, then a tenth.
        self.register_buffer("share", torch.ones(1))

    def learn(self, features: Tensor) -> None:
        """Take a batch into the running statistics."""
        sums = all_reduce(torch.cat([features.sum(dim=0), features.new_tensor([len(features)])]))
        mean = sums[:-1] / sums[-1]
        variance = all_reduce(((features - mean) ** 2).sum(dim=0)) / sums[-1]
        self.mean.lerp_(mean, self.share)
        self.variance.lerp_(variance, self.share)
        self.share.fill_(_SHARE)

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features (n_images, width); those that never vary become 0."""
        scale: Tensor = torch.rsqrt(self.variance + 1e-5) * (_LENGTH / self.mean.numel() ** 0.5)
        return (features - self.mean) * scale


class ValidationLossEvaluator(Evaluator):
    """Mean loss, and means of its parts, over the validation images, network and heads in eval mode.

    Banks, queues and momentum copies stay as they are. Where images of a batch are compared with each
    other, the loss depends on the batch size, as in training.

    Parameters
    ----------
    settings
        How often.
    name
        Name in the log.
    views
        How the images are shown.
    """

    headline = "loss"
    higher_is_better = False

    def __init__(self, settings: ValidationLoss, *, name: str, views: ViewsSettings) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._views = views

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return ``loss`` and the parts of the loss under their names."""
        images = context.images
        sums: dict[str, torch.Tensor] = {}
        n_all = torch.zeros(1, device=context.device)
        indices = np.arange(images.n_images("val"), dtype=np.int64)
        with images.batches("val", indices, views=self._views) as batches:
            for batch in batches:
                loss = context.objective.loss(context.encoder, batch)
                n_rows = all_reduce(torch.tensor([float(len(batch.index))], device=context.device))
                n_all += n_rows
                for key, value in {"loss": loss.total, **loss.parts}.items():
                    # The mean over processes is the value of the global batch.
                    share = value.detach().to(torch.float32).reshape(1) * n_rows / world_size()
                    sums[key] = sums[key] + share if key in sums else share
        return {key: float(all_reduce(value) / n_all) for key, value in sums.items()}


@dataclass(frozen=True)
class RunImages:
    """Training and validation images of a run; evaluators see them in fixed views, those of epoch 0.

    Attributes
    ----------
    train, val
        Sources of the images; ``val`` may be missing.
    validation_views
        How they are shown unless an evaluation says otherwise.
    batch_size
        Images of all processes together.
    seed
        Of the run.
    workers
        Loader threads; results do not depend on them.
    device
        Of the batches, and of the run.
    """

    train: ImageSource
    val: ImageSource | None
    validation_views: ViewsSettings
    batch_size: int
    seed: int
    workers: int
    device: torch.device

    @property
    def pins_memory(self) -> bool:
        """Whether loaders fill page-locked memory, from which a CUDA device copies by itself."""
        return self.device.type == "cuda"

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None where images have no labels."""
        return None if self.train.classes is None else len(self.train.classes)

    def n_images(self, split: Split) -> int:
        """Return the number of images; 0 where there is no such split."""
        if split == "train":
            return self.train.n_images
        return 0 if self.val is None else self.val.n_images

    @contextmanager
    def batches(
        self, split: Split, indices: NDArray[np.int64], *, views: ViewsSettings | None = None
    ) -> Iterator[Iterator[Batch]]:
        """Iterate over this process's share of these images, in batches on the device of the run.

        ``views``: how they are shown; None: in the recipe's validation views.

        All processes give the same indices and receive the same number of batches; the rows of
        all processes, in rank order, are those that one process would receive.
        """
        settings = views or self.validation_views
        crops = [(view.crop, output_px(view.crop, settings)) for view in settings.each()]
        maker = ViewMaker(settings, seed=self.seed, device=self.device)
        plan = shared_plan(indices, self.batch_size, n_processes=world_size(), process=rank())
        source = self._source(split)
        with source.batches(
            plan, crops, seed=self.seed, epoch=0, workers=self.workers, pin_memory=self.pins_memory
        ) as raw:
            yield (maker(batch, epoch=0) for batch in raw)

    def _source(self, split: Split) -> ImageSource:
        source = self.train if split == "train" else self.val
        if source is None:
            raise DataError(f"there are no {split} images")
        return source


def shared_plan(
    indices: NDArray[np.int64], batch_size: int, *, n_processes: int, process: int
) -> list[NDArray[np.int64]]:
    """Cut positions into global batches and return one process's contiguous part of each.

    Batches are as equal as possible (at most ``batch_size``), so that no process is left
    without a row of the last one; their borders do not depend on the number of processes.

    Raises
    ------
    DataError
        If there are fewer images in a batch than processes.
    """
    if not len(indices):
        return []
    batches = np.array_split(indices, -(-len(indices) // batch_size))
    if min(map(len, batches)) < n_processes:
        raise DataError(
            f"{len(indices)} images in batches of {batch_size} are too few for {n_processes} processes to "
            "evaluate on: use fewer processes or more images"
        )
    return [np.array_split(batch, n_processes)[process] for batch in batches]


class AccuracyCount:
    """Top-1 and top-5 accuracy, counted over batches.

    Parameters
    ----------
    n_classes
        Number of classes.
    device
        Of the counts.
    shared
        Whether every ``add`` counts the images of all processes, so that each of them holds all
        counts (for checkpoints); else only ``fractions`` sums over processes.
    """

    def __init__(self, n_classes: int, device: torch.device, *, shared: bool = False) -> None:
        self._ranks = (1, 5) if n_classes >= CLASSES_FOR_TOP5 else (1,)
        self._shared = shared
        # First the number of images, then how many were correct at each rank.
        self.counts = torch.zeros(1 + len(self._ranks), dtype=torch.float64, device=device)

    def add(self, class_scores: Tensor, labels: Tensor) -> None:
        """Count a batch: scores (n_images, n_classes), the higher the likelier; labels int64 (n_images,)."""
        best = class_scores.topk(self._ranks[-1], dim=1).indices == labels[:, None]
        correct = [best[:, :rank].any(dim=1).sum() for rank in self._ranks]
        new = torch.stack([best.new_tensor(len(labels), dtype=torch.int64), *correct]).to(self.counts)
        self.counts += all_reduce(new) if self._shared else new

    def fractions(self) -> dict[str, float]:
        """Return ``top1`` and, with at least six classes, ``top5`` of all processes; NaN without images."""
        counts = self.counts if self._shared else all_reduce(self.counts)
        n_images, *correct = counts.tolist()
        return {
            f"top{rank}": count / n_images if n_images else math.nan
            for rank, count in zip(self._ranks, correct, strict=True)
        }

    def clear(self) -> None:
        """Start again from zero."""
        self.counts.zero_()


def fixed_subset(n_images: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``limit`` positions of 0 .. n_images - 1, sorted.

    The same ones for the same seed, whatever the number of processes; those with the smallest
    hashes, since image folders are sorted by class and the first ones would be of few classes.
    """
    positions = np.arange(n_images, dtype=np.int64)
    if n_images <= limit:
        return positions
    order = np.argsort(hashed(seed, _SUBSET_KEY, positions), kind="stable")
    return np.sort(positions[order[:limit]])


def layer_features(encoder: nn.Module, images: Tensor, layer: str | None) -> Tensor:
    """Return a layer's output, computed in full precision.

    Parameters
    ----------
    encoder
        Its mode is left as it is; there are no gradients.
    images
        float32 (n_images, 3, side, side).
    layer
        Name of a layer; None: the output (of auto-encoders: that of the encoder).

    Returns
    -------
    Tensor
        float32 (n_images, n_features).

    Raises
    ------
    UsageError
        If there is no such layer, or its output is no tensor.
    """
    path = module_path(encoder, layer)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        output = layer_output(encoder, path, images) if path else encoder(images)
    values: Tensor = output[_ENCODER_OUTPUT] if isinstance(output, Mapping) else output
    return values.flatten(1).to(torch.float32)


def feature_width(encoder: nn.Module, layer: str | None, *, input_px: int) -> int:
    """Return the number of features of a layer for inputs of this side; UsageError: no such layer."""
    device = next(encoder.parameters()).device
    with preserve_state(encoder):
        return layer_features(encoder, torch.zeros(2, 3, input_px, input_px, device=device), layer).shape[1]


@contextmanager
def preserve_state(*modules: nn.Module) -> Iterator[None]:
    """Put modules into eval mode without gradients; put every mode and every generator back afterwards.

    In eval mode batch norms use their running statistics and leave them as they are.
    The generators are Python's, NumPy's legacy one, torch's and those of the modules' CUDA devices.
    """
    modes = [(module, module.training) for tree in modules for module in tree.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = {parameter.device for tree in modules for parameter in tree.parameters()}
    try:
        for tree in modules:
            tree.eval()
        with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
