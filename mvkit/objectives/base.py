"""What an objective is, how one is built, and what several of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.distributed import all_reduce, rank, row_counts, world_size
from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.images.settings import Batch
from mvkit.objectives.registry import LinearReadout, NeuralReadout, ObjectiveSettings, row_of
from mvkit.rng import hashed

#: Key of the draws of the heads' initial weights.
_HEADS = crc32(b"heads")
_COLOURS = 3


@dataclass(frozen=True)
class Loss:
    """A loss and the values that are logged with it.

    Attributes
    ----------
    total
        Scalar, differentiable.
    parts
        Detached scalars by name: terms of the loss, accuracies (fractions).
        As for ``total``, the mean over processes is the value of the global batch.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of all objectives: heads are its parameters, banks and queues its buffers.

    A step of the loop is ``before_step``, ``embed`` (once, or once for every
    micro-batch), ``criterion``, backward and optimiser, ``after_step``. Every
    random draw is keyed by (seed, step, image index), see ``mvkit.rng``: so
    ``embed`` may run twice on the same rows and returns the same values (only
    the running statistics of batch norms move twice).

    The loss is that of the global batch: with several processes, each embeds
    its rows and ``criterion`` gathers what it needs (``mvkit.distributed``), so
    that the *mean over processes* of the gradients is the global gradient.
    All methods may communicate: every process must call them at the same point.

    Attributes
    ----------
    couples_samples
        Whether the loss of an image depends on the other images of its batch
        (then gradients of micro-batches cannot simply be added).
    n_inputs
        Number of views that a batch must hold, after rotations or patches.
    trains_encoder
        Whether the encoder's parameters are trained; False: it stays frozen, in eval mode.
    """

    couples_samples: ClassVar[bool] = False
    n_inputs: ClassVar[int] = 1
    trains_encoder: ClassVar[bool] = True

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.step = 0

    def before_step(self, encoder: nn.Module, *, step: int) -> None:
        """Prepare a step (training only): momentum copies move here."""
        del encoder
        self.step = step

    @abstractmethod
    def embed(self, encoder: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Run encoder and heads on these rows; every tensor has the images along its first axis.

        Raises
        ------
        DataError
            If the batch lacks views.
        """
        raise NotImplementedError

    def criterion(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss of what ``embed`` returned for this process's whole share of the batch.

        Computed without autocast, in float32 (float64 stays float64).

        Raises
        ------
        DataError
            If the batch lacks labels or depth that the objective needs.
        """
        with torch.autocast(device_type=embedded[0].device.type, enabled=False):
            return self.compare(tuple(single_precision(values) for values in embedded), batch)

    @abstractmethod
    def compare(self, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        """Return the loss; each objective's own part of :meth:`criterion`."""
        raise NotImplementedError

    def after_step(self, embedded: tuple[Tensor, ...], batch: Batch) -> None:
        """Update banks and queues with this step's (detached) embeddings, on all processes alike."""
        del embedded, batch

    def loss(self, encoder: nn.Module, batch: Batch) -> Loss:
        """Return the loss of a batch: ``criterion(embed(...))``."""
        return self.criterion(self.embed(encoder, batch), batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the views of a batch.

        Raises
        ------
        DataError
            If their number is not ``n_inputs``.
        """
        if len(batch.views) != self.n_inputs:
            raise DataError(
                f"{type(self).__name__} needs {self.n_inputs} views of an image, the batch has"
                f" {len(batch.views)}\nset the recipe's 'views' accordingly"
            )
        return batch.views


@dataclass(frozen=True)
class BuildContext:
    """Network, images and seed of a training run.

    Attributes
    ----------
    encoder
        The network to train.
    shape
        Shape, for one image, of what is read from it; None if it decodes an image.
    path
        Path of the module that is read; "" for the network's output.
    n_images, n_classes
        Of the training set; no classes without labels.
    seed
        Of everything that is drawn during training.
    responses
        Of units to the training images, float (n_images, n_units), NaN = missing; None without recordings.
    """

    encoder: nn.Module
    shape: torch.Size | None
    path: str = ""
    n_images: int = 0
    n_classes: int | None = None
    seed: int = 0
    responses: Tensor | None = None

    @property
    def read_shape(self) -> torch.Size:
        """``shape``; UsageError if there is none."""
        if self.shape is None:
            raise UsageError(
                "this objective needs a network that returns features, and this one decodes an image\n"
                "use another architecture, or name a layer where the objective has that setting"
            )
        return self.shape

    @property
    def width(self) -> int:
        """Number of values that are read for one image."""
        return self.read_shape.numel()

    @property
    def known_classes(self) -> int:
        """``n_classes``; UsageError if there are none."""
        if self.n_classes is None:
            raise UsageError(
                "this objective needs labels, and these images have none\nuse an image folder with classes"
            )
        return self.n_classes

    @property
    def known_responses(self) -> Tensor:
        """``responses``; UsageError if there are none."""
        if self.responses is None:
            raise UsageError(
                "this objective needs responses of units to the images\ngive recordings: data.neural.dataset"
            )
        return self.responses

    def generator(self, purpose: str) -> torch.Generator:
        """Return a generator for one purpose (the initial memory bank or queue)."""
        return torch.Generator().manual_seed(int(hashed(self.seed, crc32(purpose.encode()))))


def build_objective(
    settings: ObjectiveSettings,
    *,
    encoder: nn.Module,
    input_px: int,
    n_images: int,
    n_classes: int | None,
    seed: int,
    responses: Tensor | None = None,
) -> Objective:
    """Build an objective with fresh heads, banks and queues, on the CPU.

    Parameters
    ----------
    settings
        Of the objective, from a recipe.
    encoder
        The network, with the weights that training starts from (MoCo v2
        copies them). A network that is only read is frozen here: its
        parameters no longer require gradients.
    input_px
        Side of the network's input; one blank pass finds the width of its output.
    n_images
        Size of the training set (of the memory bank).
    n_classes
        None without labels.
    seed
        Of heads, banks, queues and of all draws during training. torch's
        global generator is left as it was.
    responses
        Of units to the training images, float (n_images, n_units), NaN = missing.

    Returns
    -------
    Objective
        In train mode.

    Raises
    ------
    UsageError
        If network and objective do not fit, there is no such layer, or labels or responses are missing.
    """
    row = row_of(settings)
    path = module_path(encoder, settings.layer) if isinstance(settings, LinearReadout | NeuralReadout) else ""
    context = BuildContext(
        encoder=encoder,
        shape=_shape(encoder, path, input_px, decodes=row.reads == "decoded"),
        path=path,
        n_images=n_images,
        n_classes=n_classes,
        seed=seed,
        responses=responses,
    )
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(hashed(seed, _HEADS)))
        objective = row.build(settings, context)
    if not objective.trains_encoder:
        encoder.requires_grad_(requires_grad=False)
    return objective.train()


@torch.no_grad()
def _shape(encoder: nn.Module, path: str, input_px: int, *, decodes: bool) -> torch.Size | None:
    """Return the shape of what is read for one image, in eval mode so that no statistics move."""
    like = next(encoder.parameters(), torch.zeros(()))
    blank = like.new_zeros((1, _COLOURS, input_px, input_px))
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        if decodes:
            decode(encoder, blank)
            return None
        return layer_output(encoder, path, blank).shape[1:]
    finally:
        for module, training in modes.items():
            module.training = training


def single_precision(values: Tensor) -> Tensor:
    """Return half-precision values as float32; everything else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the encoder's output as (n_images, width)."""
    output: Tensor = encoder(images)
    return output.flatten(1)


def labels_of(batch: Batch) -> Tensor:
    """Return the labels of a batch.

    Raises
    ------
    DataError
        If it has none.
    """
    if batch.label is None:
        raise DataError("this objective needs labels, and these images have none\nuse images with classes")
    return batch.label


class Share(NamedTuple):
    """This process's rows among those of all: ``first`` to ``first + n_own`` of ``n_all``."""

    first: int
    n_own: int
    n_all: int


def share_of(n_own: int) -> Share:
    """Return the position of ``n_own`` rows of this process in the global batch."""
    counts = row_counts(n_own)
    return Share(first=sum(counts[: rank()]), n_own=n_own, n_all=sum(counts))


def batch_mean(values: Tensor) -> Tensor:
    """Return this process's contribution to the mean over the images of the global batch.

    The mean over processes of what is returned is the mean over all images,
    also where processes have different numbers of images.

    Parameters
    ----------
    values
        (n_images, ...): all entries are averaged.
    """
    if world_size() == 1:
        return values.mean()
    share = share_of(len(values))
    return values.sum() * (world_size() * share.n_own / (share.n_all * max(values.numel(), 1)))


def mean_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return :func:`batch_mean` of the cross entropy.

    Parameters
    ----------
    logits
        (n_images, n_classes), or (n_images, n_views, n_classes).
    classes
        int64 (n_images,), or (n_images, n_views).
    """
    each = functional.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return batch_mean(each.view(classes.shape))


@torch.no_grad()
def accuracies(logits: Tensor, classes: Tensor) -> Mapping[str, Tensor]:
    """Return the fractions (means over the global batch) whose class is the first, or one of the first five.

    Shapes as for :func:`mean_cross_entropy`. "top5" only where there are more than five classes.
    """
    chosen = logits.gather(-1, classes.unsqueeze(-1))
    better = (logits > chosen).sum(-1)
    ranks = {"top1": 1, "top5": 5} if logits.shape[-1] > 5 else {"top1": 1}
    return {name: batch_mean((better < k).float()) for name, k in ranks.items()}


def decode(encoder: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    """Return the network's outputs by name; "output" is the image that it decodes.

    Raises
    ------
    UsageError
        If the network does not decode.
    """
    outputs = encoder(images)
    if not isinstance(outputs, Mapping) or "output" not in outputs:
        raise UsageError(
            "this objective needs a network that decodes an image, and this one does not\n"
            "use an architecture with a decoder (autoencoder or hour-glass)"
        )
    return outputs


def module_path(network: nn.Module, layer: str | None) -> str:
    """Return the path of the module whose output a layer is; "" for the network's own output.

    Raises
    ------
    UsageError
        If the network has no such layer.
    """
    if layer is None:
        return ""
    points: Callable[[], Mapping[str, str]] | None = getattr(network, "tap_points", None)
    paths = points() if callable(points) else {path: path for path, _ in network.named_modules() if path}
    if layer not in paths:
        raise unknown_name("layer", layer, paths, command="mvkit list layers MODEL")
    return paths[layer]


class _ForwardStopped(BaseException):
    """Ends a forward pass; not an ``Exception``, so that no ``try`` inside a ``forward`` swallows it."""


def layer_output(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """Return what the module at ``path`` returned in one forward pass of the network.

    Raises
    ------
    UsageError
        If that is not a tensor, or the module did not run.
    """
    if not path:
        return _tensor(network(images), "the network's output")
    outputs: list[Any] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        outputs.append(output)
        # Stopping here also means that no later in-place operation changes the value.
        raise _ForwardStopped

    handle = network.get_submodule(path).register_forward_hook(record)
    try:
        network(images)
    except _ForwardStopped:
        pass
    finally:
        handle.remove()
    if not outputs:
        raise UsageError(f"layer at '{path}' does not run in a forward pass")
    return _tensor(outputs[0], f"layer at '{path}'")


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UsageError(f"{name} is a {type(value).__name__}, not a tensor\nname another layer")
    return value


class ColumnNorm(nn.Module):
    """A batch norm (Ioffe & Szegedy 2015) without parameters, over the images of all processes.

    Independent of ``train.sync_norm``: a correlation over the global batch
    needs the global mean and variance. Buffers and arithmetic
    are those of ``nn.BatchNorm1d(affine=False)``.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, *, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, rows: Tensor) -> Tensor:
        """Standardise (n_images, width); in eval mode with the running statistics."""
        if not self.training:
            return (rows - self.running_mean) / torch.sqrt(self.running_var + self.epsilon)
        n_all = share_of(len(rows)).n_all
        mean = all_reduce(rows.sum(0)) / n_all
        centred = rows - mean
        variance = all_reduce(centred.square().sum(0)) / n_all
        self._track(mean, variance * (n_all / max(n_all - 1, 1)))
        return centred / torch.sqrt(variance + self.epsilon)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1
