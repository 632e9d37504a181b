"""What a run will take, before it starts: images, steps, parameters, memory and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.images.settings import Batch
from mvkit.models.names import BEST, LAST
from mvkit.objectives.base import Objective
from mvkit.training.assembly import Sources, Start, build_networks, check_images
from mvkit.training.checkpoint import checkpoint_name
from mvkit.training.recipe import Adam, Lars, Sgd, TrainRecipe, science_digest
from mvkit.training.setup import Order

#: Images in the pass that measures activations: batch norms need more than one.
_PROBE = 2
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
    sources: Sources | None,
    *,
    problem: str | None,
    folder: Path,
    start: Start,
    shares: tuple[int, int],
) -> TrainPlan:
    """Plan a run.

    Parameters
    ----------
    recipe
        What is computed.
    sources
        Images; None: not there, ImageNet's numbers are assumed.
    problem
        Why they are not there.
    folder
        Of the run.
    start
        Where weights come from.
    shares
        Numbers of processes and of micro-batches.

    Raises
    ------
    UsageError, DataError, CheckpointError
        Parts do not fit together.
    """
    processes, accumulate = shares
    if sources is not None:
        check_images(recipe, sources)
    n_images = sources.train.n_images if sources else IMAGENET_IMAGES
    n_classes = sources.n_classes if sources else IMAGENET_CLASSES
    train = recipe.train
    order = Order(n_images, train.batch_size, train.seed, recipe.data.drop_last, size=processes)
    whole = train.epochs * order.steps_per_epoch
    n_steps = min(whole, train.max_steps or whole)
    encoder, objective = build_networks(recipe, n_images=n_images, n_classes=n_classes, start=start)
    parameters = [*encoder.parameters(), *objective.parameters()]
    return TrainPlan(
        recipe=recipe.model_dump(mode="json"),
        digest=science_digest(recipe),
        folder=str(folder),
        images=sources.train.description if sources else None,
        problem=problem,
        size=RunSize(
            n_images=n_images,
            batch_size=train.batch_size,
            steps_per_epoch=order.steps_per_epoch,
            n_steps=n_steps,
            n_parameters=sum(parameter.numel() for parameter in parameters),
            n_trained=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        ),
        memory=estimate_memory(
            recipe, encoder, objective, micro_batch=max(1, train.batch_size // processes // accumulate)
        ),
        files=dict.fromkeys(
            _files(recipe, -(-n_steps // order.steps_per_epoch)), checkpoint_bytes(recipe, encoder, objective)
        ),
    )


def _files(recipe: TrainRecipe, epochs: int) -> list[str]:
    every = recipe.checkpoint.every_epochs
    numbered = range(every, epochs + 1, every) if every else ()
    return [LAST, BEST, *map(checkpoint_name, numbered)]


def estimate_memory(
    recipe: TrainRecipe, encoder: nn.Module, objective: Objective, *, micro_batch: int
) -> MemoryEstimate:
    """Estimate what a process needs, by running two blank images through network and objective.

    Parameters
    ----------
    recipe
        Its optimiser and views.
    encoder, objective
        On the CPU, in training mode; running statistics are put back afterwards.
    micro_batch
        Images that a process has in memory at a time.
    """
    modules = (encoder, objective)
    trained = sum(_bytes(p for p in module.parameters() if p.requires_grad) for module in modules)
    copies = 1 + _copies_of_optimiser(recipe)
    return MemoryEstimate(
        state=sum(_bytes(module.state_dict().values()) for module in modules),
        training=trained * copies,
        activations=_activations(recipe, encoder, objective) * micro_batch // _PROBE,
    )


def checkpoint_bytes(recipe: TrainRecipe, encoder: nn.Module, objective: Objective) -> int:
    """Return about how large a checkpoint is: network, objective, optimiser."""
    modules = (encoder, objective)
    trained = sum(_bytes(p for p in module.parameters() if p.requires_grad) for module in modules)
    state = sum(_bytes(module.state_dict().values()) for module in modules)
    return state + trained * _copies_of_optimiser(recipe)


def _copies_of_optimiser(recipe: TrainRecipe) -> int:
    """Return how many values the optimiser keeps for every parameter."""
    optimiser = recipe.optimiser
    if isinstance(optimiser, Adam):
        return 2
    return int(isinstance(optimiser, Lars) or (isinstance(optimiser, Sgd) and optimiser.momentum > 0))


def _bytes(tensors: Iterable[Any]) -> int:
    seen: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            seen[tensor.data_ptr() or id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def _activations(recipe: TrainRecipe, encoder: nn.Module, objective: Objective) -> int:
    """Return the bytes that autograd keeps of the probe's images."""
    modules = (encoder, objective)
    buffers = {buffer: buffer.clone() for module in modules for buffer in module.buffers()}
    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    own |= {buffer.untyped_storage().data_ptr() for buffer in buffers}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.autograd.graph.saved_tensors_hooks(note, lambda one: one),
        ):
            embedded = objective.embed(encoder, _blank_batch(recipe, objective))
        own_rows = sum(rows.numel() * rows.element_size() for rows in embedded)
    finally:
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
    return sum(kept.values()) + own_rows


def _blank_batch(recipe: TrainRecipe, objective: Objective) -> Batch:
    side = recipe.input_px
    views = tuple(torch.zeros(_PROBE, 3, side, side) for _ in range(objective.n_inputs))
    labels = torch.zeros(_PROBE, dtype=torch.int64)
    return Batch(views, index=torch.arange(_PROBE), label=labels, target=views[0][:, :1])
