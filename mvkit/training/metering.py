"""Losses on their way to the log: read from the device in groups, checked to be finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mvkit.errors import FitError
from mvkit.objectives.base import Loss
from mvkit.training.log import RunLog

#: Steps between readings on a GPU, which stands still while it is read.
_GROUP = 20


@dataclass(frozen=True)
class _Entry:
    step: int
    epoch: int
    rate: float
    loss: Loss


class Meter:
    """Collects the losses of steps.

    Parameters
    ----------
    log
        Where they go; None on processes that do not write.
    device
        Where losses lie.
    """

    def __init__(self, log: RunLog | None, device: torch.device) -> None:
        self._log = log
        self._group = 1 if device.type == "cpu" else _GROUP
        self._waiting: list[_Entry] = []
        self.last = math.nan

    def add(self, loss: Loss, *, step: int, epoch: int, rate: float) -> bool:
        """Take a loss; return whether it is time to :meth:`read`.

        Parameters
        ----------
        loss
            Of the global batch, detached.
        step
            Finished steps, this one included.
        epoch
            Epoch in progress, from 1.
        rate
            Learning rate of the step.
        """
        self._waiting.append(_Entry(step, epoch, rate, loss))
        return len(self._waiting) >= self._group

    def read(self, extra: Callable[[], Mapping[str, object]]) -> list[float]:
        """Write the collected losses to the log and return them.

        Parameters
        ----------
        extra
            Asked, once the losses have arrived, for further values of each record.

        Raises
        ------
        FitError
            One of them is not finite.
        """
        if not self._waiting:
            return []
        losses = []
        entries, self._waiting = self._waiting, []
        arrived = _values(entries)
        more = extra()
        for entry, values in zip(entries, arrived, strict=True):
            total, parts = values
            record = {"epoch": entry.epoch, "loss": total, **parts, "learning_rate": entry.rate}
            reason = None if math.isfinite(total) else f"the loss is {total}"
            if self._log is not None:
                error = {"error": reason} if reason else {}
                self._log.write("step", step=entry.step, **record, **error, **more)
            if reason:
                raise FitError(
                    f"step {entry.step}: {reason}; training stopped, the last checkpoint is of before\n"
                    "try a smaller optimiser.learning_rate, more schedule.warmup_epochs, or --precision fp32"
                )
            losses.append(total)
            self.last = total
        return losses


def _values(entries: list[_Entry]) -> list[tuple[float, dict[str, float]]]:
    # One transfer for the whole group.
    rows = [torch.stack([_scalar(value) for value in _all(entry.loss).values()]) for entry in entries]
    numbers = torch.stack(rows).tolist()
    names = list(_all(entries[0].loss))[1:]
    return [(row[0], dict(zip(names, row[1:], strict=True))) for row in numbers]


def _all(loss: Loss) -> dict[str, torch.Tensor]:
    return {"loss": loss.total, **{name: part for name, part in loss.parts.items() if name != "loss"}}


def _scalar(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.float64 if value.device.type == "cpu" else torch.float32).mean()
