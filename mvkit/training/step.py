"""One optimisation step: forward, backward, averaging over processes, update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn, optim

from mvkit.errors import UsageError
from mvkit.images.batch import Batch
from mvkit.objectives.base import Loss, Objective
from mvkit.processes.averaging import GradientAverage
from mvkit.processes.gathering import summed_over_processes
from mvkit.processes.norms import GlobalNorm
from mvkit.processes.world import size
from mvkit.training.accumulation import (
    BatchNorm,
    MicroBatch,
    generator_states,
    running_statistics_kept,
    set_generator_states,
    shared_micro_batches,
)
from mvkit.training.precision import Precision, PrecisionName


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed; none of it is science, so none of it is in a recipe.

    Attributes
    ----------
    accumulate
        Number of micro-batches that a process cuts its share of a batch into, to save memory.
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
        """Refuse a number of micro-batches below one."""
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
        On ``device``, in training mode as wanted; norms already synchronised.
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
            # Not a frozen network, which is left half-way, at the layer that is read.
            # In place: objectives tap layers of this very module, and keys of its state dict stay.
            for module in encoder.modules():
                if isinstance(module, GlobalNorm):
                    module.stay_uncompiled()
            encoder.compile()
        self._average = GradientAverage(p for group in optimiser.param_groups for p in group["params"])

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
        parts = shared_micro_batches(len(batch.index), self.settings.accumulate)
        self._objective.before_step(self._encoder, step=step)
        self._optimiser.zero_grad(set_to_none=True)
        if len(parts) > 1 and self._objective.couples_samples:
            loss, embedded = self._in_two_passes(batch, parts)
        else:
            loss, embedded = self._added_up(batch, parts)
        self._average.finish()
        self._precision.step(self._optimiser)
        with torch.no_grad():
            self._objective.after_step(embedded, batch)
        return _averaged(loss)

    def notes(self) -> tuple[str, ...]:
        """Return what differs from a float32 step on the whole batch at once, a sentence each."""
        said = []
        n_parts = self.settings.accumulate
        trained = (self._encoder, self._objective) if self._objective.trains_encoder else (self._objective,)
        modules = [module for network in trained for module in network.modules()]
        if n_parts > 1 and any(isinstance(module, BatchNorm) for module in modules):
            said.append(
                f"batch norms see 1/{n_parts} of a batch (a micro-batch) at a time, "
                f"and their running statistics move {n_parts} times a step"
            )
        if n_parts > 1 and self._objective.couples_samples:
            said.append("the loss is that of the whole batch: networks run forward twice (embedding cache)")
        if self.settings.precision != "fp32":
            said.append(f"networks run in {self.settings.precision}, losses and updates in float32")
        return tuple(said)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside parameters and optimiser: the loss scale."""
        return self._precision.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._precision.load_state_dict(state)

    def _embed(self, batch: Batch) -> tuple[Tensor, ...]:
        with self._precision.autocast():
            embedded = self._objective.embed(self._encoder, batch)
        halves = (torch.float16, torch.bfloat16)
        return tuple(rows.float() if rows.dtype in halves else rows for rows in embedded)

    def _added_up(self, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Loss, tuple[Tensor, ...]]:
        """Add the gradients of micro-batches (one, where images depend on each other)."""
        losses, pieces = [], []
        for part in parts:
            if part is parts[-1]:
                self._average.arm()
            rows = batch if len(parts) == 1 else batch.rows(part.first, part.last)
            embedded = self._embed(rows)
            loss = _weighted(self._objective.criterion(embedded, rows), part.weight)
            self._precision.scaled(loss.total).backward()  # type: ignore[no-untyped-call]
            losses.append(_detached(loss))
            pieces.append(tuple(rows.detach() for rows in embedded))
        return _summed(losses), _joined(pieces)

    def _in_two_passes(self, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Loss, tuple[Tensor, ...]]:
        """Differentiate the loss of the whole batch, one micro-batch in memory at a time."""
        states, pieces = [], []
        with torch.no_grad():
            for part in parts:
                states.append(generator_states(self._device))
                pieces.append(self._embed(batch.rows(part.first, part.last)))
        cached = _joined(pieces)
        for rows in cached:
            rows.requires_grad_(rows.is_floating_point())
        loss = self._objective.criterion(cached, batch)
        self._precision.scaled(loss.total).backward()  # type: ignore[no-untyped-call]
        after = generator_states(self._device)
        # The first pass has moved the running statistics already.
        with running_statistics_kept(self._encoder, self._objective):
            for part, state in zip(parts, states, strict=True):
                set_generator_states(state, self._device)
                if part is parts[-1]:
                    self._average.arm()
                embedded = self._embed(batch.rows(part.first, part.last))
                taught = [
                    (rows, known.grad[part.first : part.last])
                    for rows, known in zip(embedded, cached, strict=True)
                    if rows.requires_grad and known.grad is not None
                ]
                torch.autograd.backward([rows for rows, _ in taught], [gradient for _, gradient in taught])
        set_generator_states(after, self._device)
        return _detached(loss), tuple(rows.detach() for rows in cached)


def _detached(loss: Loss) -> Loss:
    return Loss(loss.total.detach(), {name: part.detach() for name, part in loss.parts.items()})


def _weighted(loss: Loss, weight: float) -> Loss:
    if weight == 1.0:
        return loss
    return Loss(loss.total * weight, {name: part * weight for name, part in loss.parts.items()})


def _summed(losses: list[Loss]) -> Loss:
    if len(losses) == 1:
        return losses[0]
    total = torch.stack([loss.total for loss in losses]).sum()
    names = losses[0].parts
    return Loss(total, {name: torch.stack([loss.parts[name] for loss in losses]).sum() for name in names})


def _averaged(loss: Loss) -> Loss:
    """Return the mean over processes of a loss and its parts."""
    if size() == 1:
        return loss
    values = torch.stack([loss.total, *(part.to(loss.total) for part in loss.parts.values())])
    total, *parts = summed_over_processes(values).div_(size()).unbind()
    return Loss(total, dict(zip(loss.parts, parts, strict=True)))


def _joined(pieces: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Put micro-batches' embeddings together again."""
    if len(pieces) == 1:
        return pieces[0]
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))
