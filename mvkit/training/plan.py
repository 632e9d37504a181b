"""The plan of a run, before it starts: images, steps, parameters, memory and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.images.loader import ImageSource
from mvkit.images.settings import Batch
from mvkit.models.names import BEST, LAST
from mvkit.objectives.base import Objective
from mvkit.training.checkpoint import checkpoint_name
from mvkit.training.recipe import Adam, Lars, Sgd, TrainRecipe, science_digest
from mvkit.training.setup import Order, build_networks, check_images, n_steps

#: Images in the forward pass that measures activations: batch norms need more than one.
_BLANK_IMAGES = 2
#: ImageNet (ILSVRC 2012), assumed while the images are not there.
IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1000


@dataclass(frozen=True)
class RunSize:
    """Numbers of a run.

    Attributes
    ----------
    n_images, batch_size, steps_per_epoch, n_steps
        Training images, images of a global batch, its optimisation steps.
    n_parameters, n_trained
        Of network and objective together, and those of them that are trained.
    """

    n_images: int
    batch_size: int
    steps_per_epoch: int
    n_steps: int
    n_parameters: int
    n_trained: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device of each process, in float32.

    Attributes
    ----------
    state
        Parameters and buffers (banks and queues among them) of network and objective.
    training
        Gradients and the optimiser's state.
    activations
        What backward needs of a micro-batch.
    """

    state: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of the parts; libraries and workspaces come on top."""
        return self.state + self.training + self.activations


@dataclass(frozen=True)
class TrainPlan:
    """A run that has not begun.

    Attributes
    ----------
    recipe
        Resolved, as JSON values.
    digest
        Of its science.
    folder, images
        Where results would go, and which images would be read (None: not there yet).
    problem
        What is missing before training can start, and the command for it; None if nothing.
    size, memory
        Numbers of the run.
    files
        Names of checkpoints, and bytes of each.
    """

    recipe: Mapping[str, Any]
    digest: str
    folder: str
    images: str | None
    problem: str | None
    size: RunSize
    memory: MemoryEstimate
    files: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def make_plan(
    recipe: TrainRecipe,
    images: ImageSource | None,
    *,
    problem: str | None,
    folder: Path,
    weights: str | None,
    home: Path | None,
    processes: int,
    accumulate: int,
) -> TrainPlan:
    """Plan a run.

    Parameters
    ----------
    recipe
        What is computed.
    images
        Training images; None: missing, ImageNet's numbers are assumed.
    problem
        Why they are missing.
    folder
        Of the run.
    weights, home
        See :func:`mvkit.training.setup.build_networks`.
    processes, accumulate
        Numbers of processes and of micro-batches.

    Raises
    ------
    UsageError, DataError, CheckpointError
        Parts do not fit together.
    """
    n_images: int = IMAGENET_IMAGES
    n_classes: int | None = IMAGENET_CLASSES
    if images is not None:
        check_images(recipe, images)
        n_images = images.n_images
        n_classes = None if images.classes is None else len(images.classes)
    batch_size = recipe.train.batch_size
    order = Order(n_images, batch_size, recipe.train.seed, recipe.data.drop_last, size=processes)
    n_all = n_steps(recipe, order)
    encoder, objective = build_networks(
        recipe,
        n_images=n_images,
        n_classes=n_classes,
        responses=None if images is None else images.responses,
        weights=weights,
        home=home,
    )
    parameters = [*encoder.parameters(), *objective.parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # Parameters and buffers; values that the optimiser has of each parameter.
    state = sum(_bytes(module.state_dict().values()) for module in (encoder, objective))
    optimiser = _bytes(trained) * _optimiser_copies(recipe)
    micro_batch = max(1, batch_size // processes // accumulate)
    activations = _activation_bytes(recipe, encoder, objective) * micro_batch // _BLANK_IMAGES
    every, n_epochs = recipe.checkpoint.every_epochs, -(-n_all // order.steps_per_epoch)
    numbered = range(every, n_epochs + 1, every) if every else ()
    return TrainPlan(
        recipe=recipe.model_dump(mode="json"),
        digest=science_digest(recipe),
        folder=str(folder),
        images=images.description if images else None,
        problem=problem,
        size=RunSize(
            n_images=n_images,
            batch_size=batch_size,
            steps_per_epoch=order.steps_per_epoch,
            n_steps=n_all,
            n_parameters=sum(parameter.numel() for parameter in parameters),
            n_trained=sum(parameter.numel() for parameter in trained),
        ),
        memory=MemoryEstimate(state, training=_bytes(trained) + optimiser, activations=activations),
        files=dict.fromkeys([LAST, BEST, *map(checkpoint_name, numbered)], state + optimiser),
    )


def _optimiser_copies(recipe: TrainRecipe) -> int:
    """Return how many values the optimiser has for every parameter."""
    optimiser = recipe.optimiser
    if isinstance(optimiser, Adam):
        return 2
    return int(isinstance(optimiser, Lars) or (isinstance(optimiser, Sgd) and optimiser.momentum > 0))


def _bytes(tensors: Iterable[Any]) -> int:
    """Return the bytes of different tensors."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            sizes[tensor.data_ptr() or id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())


def _activation_bytes(recipe: TrainRecipe, encoder: nn.Module, objective: Objective) -> int:
    """Return the bytes that autograd saves of a forward pass of blank images; buffers stay as they are."""
    modules = (encoder, objective)
    buffers = {buffer: buffer.clone() for module in modules for buffer in module.buffers()}
    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    own |= {buffer.untyped_storage().data_ptr() for buffer in buffers}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        ):
            embedded = objective.embed(encoder, _blank_batch(recipe, objective))
    finally:
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
    return sum(saved.values()) + sum(rows.numel() * rows.element_size() for rows in embedded)


def _blank_batch(recipe: TrainRecipe, objective: Objective) -> Batch:
    side = recipe.input_px
    views = tuple(torch.zeros(_BLANK_IMAGES, 3, side, side) for _ in range(objective.n_inputs))
    labels = torch.zeros(_BLANK_IMAGES, dtype=torch.int64)
    return Batch(views, index=torch.arange(_BLANK_IMAGES), label=labels, target=views[0][:, :1])
