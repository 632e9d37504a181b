"""One optimisation step: forward, backward, averaging over processes, update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mvkit.distributed import SyncBatchNormCpu, all_reduce, data_parallel, rank, row_counts, world_size
from mvkit.errors import UsageError, unknown_name
from mvkit.images.settings import Batch
from mvkit.objectives.base import Loss, Objective, single_precision

PrecisionName = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed; not science, so not in a recipe.

    Attributes
    ----------
    accumulate
        Number of micro-batches into which a process splits its share of a batch, to save memory.
    precision
        "fp32", "bf16" or "fp16" (networks under autocast; losses and optimiser in float32).
    channels_last
        Memory order in which GPUs (and bf16 on CPUs) convolve faster.
    compile
        ``torch.compile`` the encoder.
    """

    accumulate: int = 1
    precision: PrecisionName = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check that there is a micro-batch."""
        if self.accumulate < 1:
            raise UsageError(f"accumulate: {self.accumulate} micro-batches; give 1 or more")


class TrainStep:
    """Computes a batch's loss and gradients and updates the parameters.

    The loss is that of the global batch, whatever the number of processes and
    micro-batches. With ``accumulate`` > 1:

    - Where images do not depend on each other, gradients of micro-batches are
      added, weighted by their rows.
    - Where they do (contrastive losses and the like), embeddings of the whole
      batch are computed without gradients first, the loss is differentiated
      with respect to them, and a second pass over the micro-batches, with the
      same dropout, carries those gradients into the network (Gao et al. 2021,
      section 3). It costs a second forward pass; the loss and its gradient are exact.

    Either way *batch norms see micro-batches* (of all processes together when
    synchronised), not the batch: that, and running statistics moving once for
    every micro-batch, is all that differs from a step without accumulation.
    Networks without batch norm differ by rounding only. :meth:`notes` says so.

    Parameters
    ----------
    encoder, objective
        On ``device``, in the modes of training; norms already synchronised.
    optimiser
        Over those of their parameters that are trained.
    settings
        How to compute it.
    device
        Where batches lie.

    Raises
    ------
    UsageError
        If the device cannot run the precision.
    """

    def __init__(
        self,
        encoder: nn.Module,
        objective: Objective,
        optimiser: optim.Optimizer,
        *,
        settings: StepSettings | None = None,
        device: torch.device,
    ) -> None:
        self.settings = settings or StepSettings()
        self._encoder = encoder
        self._objective = objective
        self._optimiser = optimiser
        self._device = device
        self._precision = Precision(self.settings.precision, device)
        if self.settings.channels_last:
            encoder.to(memory_format=torch.channels_last)
        if self.settings.compile and objective.trains_encoder:
            # Not a frozen network, whose forward pass stops at the layer that is read.
            # In place: objectives have hooks on layers of this module, and keys of its state dict stay.
            for module in encoder.modules():
                if isinstance(module, SyncBatchNormCpu):
                    # The communication of processes is not compiled.
                    forward = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
                    module.forward = forward  # type: ignore[method-assign]
            encoder.compile()
        self._embedding = data_parallel(_Embedding(encoder, objective))

    def run(self, batch: Batch, *, step: int) -> Loss:
        """Learn from a batch.

        Parameters
        ----------
        batch
            This process's rows of the global batch, on the device.
        step
            Number of the step since training began, from 0: key of what is drawn at random.

        Returns
        -------
        Loss
            Of the global batch before the update, detached: still on the device,
            so that reading it, not this call, waits for the GPU.

        Raises
        ------
        UsageError
            If a process has no rows.
        """
        if self.settings.channels_last:
            ordered = tuple(view.contiguous(memory_format=torch.channels_last) for view in batch.views)
            batch = replace(batch, views=ordered)
        parts = _micro_batches(len(batch.index), self.settings.accumulate)
        self._objective.before_step(self._encoder, step=step)
        self._optimiser.zero_grad(set_to_none=True)
        if len(parts) > 1 and self._objective.couples_samples:
            loss, embedded = self._cache_embeddings(batch, parts)
        else:
            loss, embedded = self._accumulate(batch, parts)
        self._precision.step(self._optimiser)
        with torch.no_grad():
            self._objective.after_step(embedded, batch)
        return _average_over_processes(loss)

    def notes(self) -> tuple[str, ...]:
        """Return what differs from a float32 step on the whole batch at once, a sentence each."""
        notes = []
        n_parts = self.settings.accumulate
        trained = (self._encoder, self._objective) if self._objective.trains_encoder else (self._objective,)
        modules = [module for network in trained for module in network.modules()]
        if n_parts > 1 and any(isinstance(module, _BatchNorm) for module in modules):
            notes.append(
                f"batch norms see 1/{n_parts} of a batch (a micro-batch) at a time, "
                f"and their running statistics move {n_parts} times a step"
            )
        if n_parts > 1 and self._objective.couples_samples:
            notes.append("the loss is that of the whole batch: networks run forward twice (embedding cache)")
        if self.settings.precision != "fp32":
            notes.append(f"networks run in {self.settings.precision}, losses and updates in float32")
        return tuple(notes)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside parameters and optimiser: the loss scale."""
        return self._precision.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._precision.load_state_dict(state)

    def _embed(self, batch: Batch) -> tuple[Tensor, ...]:
        with self._precision.autocast():
            embedded: tuple[Tensor, ...] = self._embedding(batch)
        return tuple(single_precision(rows) for rows in embedded)

    def _accumulate(self, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Loss, tuple[Tensor, ...]]:
        """Add up the gradients of micro-batches (of one, where images depend on each other)."""
        losses, pieces = [], []
        for part in parts:
            rows = batch if len(parts) == 1 else batch.rows(part.first, part.last)
            with self._sync_gradients(is_last=part is parts[-1]):
                embedded = self._embed(rows)
                loss = _multiply(self._objective.criterion(embedded, rows), part.weight)
                self._precision.scale(loss.total).backward()  # type: ignore[no-untyped-call]
            losses.append(_detach(loss))
            pieces.append(tuple(rows.detach() for rows in embedded))
        return _add(losses), _concatenate(pieces)

    def _cache_embeddings(self, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Loss, tuple[Tensor, ...]]:
        """Differentiate the loss of the whole batch, one micro-batch in memory at a time."""
        states, pieces = [], []
        with torch.no_grad():
            for part in parts:
                states.append(_generator_states(self._device))
                pieces.append(self._embed(batch.rows(part.first, part.last)))
        cached = _concatenate(pieces)
        for rows in cached:
            rows.requires_grad_(rows.is_floating_point())
        loss = self._objective.criterion(cached, batch)
        self._precision.scale(loss.total).backward()  # type: ignore[no-untyped-call]
        after = _generator_states(self._device)
        # The first pass has moved the running statistics already.
        with _running_statistics_frozen(self._encoder, self._objective):
            for part, state in zip(parts, states, strict=True):
                _set_generator_states(state, self._device)
                with self._sync_gradients(is_last=part is parts[-1]):
                    embedded = self._embed(batch.rows(part.first, part.last))
                    pairs = [
                        (rows, whole.grad[part.first : part.last])
                        for rows, whole in zip(embedded, cached, strict=True)
                        if rows.requires_grad and whole.grad is not None
                    ]
                    torch.autograd.backward([rows for rows, _ in pairs], [gradient for _, gradient in pairs])
        _set_generator_states(after, self._device)
        return _detach(loss), tuple(rows.detach() for rows in cached)

    def _sync_gradients(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Average gradients over processes after the last micro-batch only."""
        if is_last or not isinstance(self._embedding, DistributedDataParallel):
            return nullcontext()
        return self._embedding.no_sync()


class Precision:
    """Mixed precision of one training step.

    Networks run under autocast, losses in float32; parameters, gradients and
    the optimiser's state are float32 throughout. "fp16" scales the loss
    (Micikevicius et al. 2018) and skips a step whose gradients overflow.

    Parameters
    ----------
    name
        "fp32", "bf16" or "fp16".
    device
        Where training runs.

    Raises
    ------
    UsageError
        For an unknown name, or one that the device cannot run.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in get_args(PrecisionName):
            raise unknown_name("precision", name, get_args(PrecisionName))
        if name == "fp16" and device.type != "cuda":
            raise UsageError(f"precision fp16 needs a CUDA device, not {device.type}: use bf16 or fp32")
        if (
            name == "bf16"
            and device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise UsageError("precision bf16 is slower than fp32 on this GPU (no bfloat16 units): use fp16")
        self.name = name
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_HALVES[self.name])

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` on."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def step(self, optimiser: optim.Optimizer) -> None:
        """Make the optimiser step with the true (unscaled) gradients."""
        if self._scaler is None:
            optimiser.step()
            return
        self._scaler.step(optimiser)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale and its history (empty without scaling)."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the loss scale of a checkpoint; one written in another precision starts afresh."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))


class _Embedding(nn.Module):
    """Encoder and heads as one module, whose parameters all get their gradients through it."""

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        return self.objective.embed(self.encoder, batch)


class MicroBatch(NamedTuple):
    """Rows ``first`` to ``last`` (excluded) of this process.

    ``weight``: the part of the global batch's images that this micro-batch
    holds, on all processes together.
    """

    first: int
    last: int
    weight: float


def _micro_batches(n_own: int, n_parts: int) -> list[MicroBatch]:
    """Split this process's rows into contiguous parts whose sizes differ by one at most.

    All processes have the same number of parts, fewer where one of them has fewer rows:
    in every part all of them communicate in batch norms and losses.
    """
    counts = row_counts(n_own)
    if min(counts) == 0:
        raise UsageError(
            f"process {counts.index(0)} of {len(counts)} has no images in a batch of {sum(counts)}: "
            "use fewer processes or a larger batch"
        )
    n_parts = min(n_parts, *counts)
    cuts = [[part * n_rows // n_parts for part in range(n_parts + 1)] for n_rows in counts]
    bounds = cuts[rank()]
    n_together = [sum(cut[part + 1] - cut[part] for cut in cuts) for part in range(n_parts)]
    return [
        MicroBatch(bounds[part], bounds[part + 1], n_together[part] / sum(counts)) for part in range(n_parts)
    ]


def _generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of the generators that dropout draws from."""
    on_cpu = torch.get_rng_state()
    return (on_cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (on_cpu,)


def _set_generator_states(states: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def _running_statistics_frozen(*modules: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by their batch as in training, but leave running statistics alone."""
    norms = [
        part
        for module in modules
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _detach(loss: Loss) -> Loss:
    return Loss(loss.total.detach(), {name: part.detach() for name, part in loss.parts.items()})


def _multiply(loss: Loss, weight: float) -> Loss:
    if weight == 1.0:
        return loss
    return Loss(loss.total * weight, {name: part * weight for name, part in loss.parts.items()})


def _add(losses: list[Loss]) -> Loss:
    if len(losses) == 1:
        return losses[0]
    total = torch.stack([loss.total for loss in losses]).sum()
    names = losses[0].parts
    return Loss(total, {name: torch.stack([loss.parts[name] for loss in losses]).sum() for name in names})


def _average_over_processes(loss: Loss) -> Loss:
    """Return the mean over processes of a loss and its parts."""
    if world_size() == 1:
        return loss
    values = torch.stack([loss.total, *(part.to(loss.total) for part in loss.parts.values())])
    total, *parts = all_reduce(values).div_(world_size()).unbind()
    return Loss(total, dict(zip(loss.parts, parts, strict=True)))


def _concatenate(pieces: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate the embeddings of micro-batches."""
    if len(pieces) == 1:
        return pieces[0]
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))
