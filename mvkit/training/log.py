"""Log and reports of a run: losses, speed, epochs, its end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar

import torch

from mvkit.errors import FitError, UsageError, wording
from mvkit.files import naming_file, plain, write_text
from mvkit.objectives.base import Loss

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


Item = TypeVar("Item")
Side = Literal["loader", "compute"]

#: Share of an older estimate that a new measurement leaves of it.
_MEMORY = 0.9
#: Kinds of records that belong to a finished epoch rather than to a step.
_OF_EPOCHS = ("evaluation", "epoch")
#: Steps between readings of losses on a GPU, which stands still while it is read.
_GROUP = 20


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called during a run.

    Attributes
    ----------
    message
        With a sentence for people.
    pace
        With the pace, as steps go by.
    """

    message: Callable[[str], None] = lambda text: None
    pace: Callable[[Pace], None] = lambda pace: None


@dataclass(frozen=True)
class Pace:
    """Progress and speed of a run at one moment.

    Attributes
    ----------
    step, n_steps, epoch, n_epochs
        Finished steps of all, epoch in progress (from 1) of all.
    loss
        Of the last step that was read.
    images_per_s
        Images of all processes.
    eta_s
        Seconds until all steps are done, at this pace.
    waiting
        Fraction of the time spent waiting for images and views.
    """

    step: int
    n_steps: int
    epoch: int
    n_epochs: int
    loss: float
    images_per_s: float
    eta_s: float
    waiting: float

    @property
    def bottleneck(self) -> Side:
        """Which side would have to become faster first."""
        return "loader" if self.waiting > 0.5 else "compute"


@dataclass(frozen=True)
class FitReport:
    """Result of a run.

    Attributes
    ----------
    folder
        Of log and checkpoints.
    step, n_steps, epochs
        Steps finished, of how many; epochs finished.
    resumed_from
        Steps that an earlier run had finished.
    interrupted
        Whether a signal ended it before its time.
    loss
        Of the last step; NaN if none was made.
    metrics
        Of the last evaluation.
    best, best_by
        Best value so far of the metric that decides which checkpoint is the best (None before the first),
        and its name.
    scored
        Name of the checkpoint that the folder stands for as a model.
    seconds
        Time it took.
    """

    folder: Path
    step: int
    n_steps: int
    epochs: int
    resumed_from: int
    interrupted: bool
    loss: float
    metrics: Mapping[str, float]
    best: float | None
    best_by: str
    scored: str
    seconds: float


class RunLog:
    """Records of a run, written as they come.

    Every record has ``kind`` ("start", "resume", "step", "evaluation",
    "epoch", "interrupted", "end") and ``step``, the number of finished steps. Values
    that are not finite are null, with the reason in ``error``.

    Parameters
    ----------
    path
        ``log.jsonl``; continued if it exists.
    tensorboard
        Folder of TensorBoard's files, or None.

    Raises
    ------
    UsageError
        TensorBoard is requested and not installed.
    """

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._board = _open_board(tensorboard) if tensorboard is not None else None

    def rewind(self, *, step: int, epochs: int) -> None:
        """Remove what came after a checkpoint, and a line that a killed process left unfinished.

        Parameters
        ----------
        step, epochs
            Steps and epochs that the checkpoint has finished.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        write_text(self.path, "".join(f"{line}\n" for line in lines if _is_before(line, step, epochs)))

    def write(self, kind: str, *, step: int, **values: object) -> None:
        """Append a record."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        record = plain({"kind": kind, "step": step, **values})
        with naming_file(self.path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if is_number and name not in ("step", "epoch"):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            with naming_file(self.path):  # what a full disk has not taken is written again
                self._file.close()
            self._file = None
        if self._board is not None:
            self._board.close()


def _is_before(line: str, step: int, epochs: int) -> bool:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return False
    if not isinstance(record, Mapping):
        return False
    if record.get("kind") in _OF_EPOCHS:
        return int(record.get("epoch", 0)) <= epochs
    return record.get("kind") != "end" and int(record.get("step", 0)) <= step


def _open_board(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed\nrun: pip install tensorboard, or leave out "
            + wording("--tensorboard", "tensorboard=True")
        ) from error
    return SummaryWriter(str(folder))


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
        """Add the loss of a step; return whether it is time to :meth:`read`.

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
            Called once the losses have been read; returns further values of each record.

        Raises
        ------
        FitError
            One of them is not finite.
        """
        if not self._waiting:
            return []
        losses = []
        entries, self._waiting = self._waiting, []
        values = _values(entries)
        more = extra()
        for entry, (total, parts) in zip(entries, values, strict=True):
            record = {"epoch": entry.epoch, "loss": total, **parts, "learning_rate": entry.rate}
            reason = None if math.isfinite(total) else f"the loss is {total}"
            if self._log is not None:
                error = {"error": reason} if reason else {}
                self._log.write("step", step=entry.step, **record, **error, **more)
            if reason:
                raise FitError(
                    f"step {entry.step}: {reason}; training stopped, the last checkpoint is of before\n"
                    "try a smaller optimiser.learning_rate, more schedule.warmup_epochs, or "
                    + wording("--precision fp32", 'precision="fp32"')
                )
            losses.append(total)
            self.last = total
        return losses


@dataclass(frozen=True)
class _Entry:
    step: int
    epoch: int
    rate: float
    loss: Loss


def _values(entries: list[_Entry]) -> list[tuple[float, dict[str, float]]]:
    """Return total and parts of losses, in one transfer from the device."""
    names = [name for name in entries[0].loss.parts if name != "loss"]
    rows = [
        torch.stack([_scalar(entry.loss.total), *(_scalar(entry.loss.parts[name]) for name in names)])
        for entry in entries
    ]
    return [(row[0], dict(zip(names, row[1:], strict=True))) for row in torch.stack(rows).tolist()]


def _scalar(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.float64 if value.device.type == "cpu" else torch.float32).mean()


class Stopwatch:
    """Measures windows of steps: how long they took, how much of it was waiting.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._waited_s = 0.0
        self._images = 0
        self.images_per_s = 0.0
        self.waiting = 0.0

    def time_waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on; the time until each arrives counts as waiting."""
        iterator = iter(items)
        while True:
            began = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited_s += self._clock() - began
            yield item

    def add(self, n_images: int) -> None:
        """Count images that a step learned from."""
        self._images += n_images

    def close_window(self) -> None:
        """Take everything since the last call into the running averages."""
        now = self._clock()
        elapsed = max(now - self._started, 1e-9)
        memory = _MEMORY if self.images_per_s else 0.0
        self.images_per_s = memory * self.images_per_s + (1 - memory) * self._images / elapsed
        self.waiting = memory * self.waiting + (1 - memory) * self._waited_s / elapsed
        self.restart()

    def restart(self) -> None:
        """Begin a new window now: what went on before (an evaluation) does not count."""
        self._started, self._waited_s, self._images = self._clock(), 0.0, 0
