"""The one training loop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType, TracebackType
from typing import Any

import torch

from mvkit.distributed import all_reduce, is_main_process, rank, world_size
from mvkit.images.crops import output_px
from mvkit.models.names import BEST, LAST
from mvkit.rng import hashed
from mvkit.training.checkpoint import Progress, checkpoint_name, restore, snapshot, write_checkpoint
from mvkit.training.evaluation import EvaluationContext
from mvkit.training.log import Callbacks, FitReport, Meter, Pace, RunLog, Stopwatch
from mvkit.training.optim import learning_rate, set_learning_rate
from mvkit.training.setup import TrainingSetup

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOG = "log.jsonl"
_BOARD = "tensorboard"
#: Key of the draws that seed torch's generators (dropout).
_GENERATOR_KEY = 0x6E0D


def fit(
    setup: TrainingSetup, *, resume: Mapping[str, Any] | None = None, callbacks: Callbacks | None = None
) -> FitReport:
    """Train until the recipe's end, or until SIGTERM or Ctrl-C.

    Parameters
    ----------
    setup
        The run. All processes call this alike.
    resume
        Contents of a checkpoint of the same run to go on from.
    callbacks
        Called as the run goes on.

    Raises
    ------
    FitError
        The loss is not finite; ``last.pt`` is of before.
    DataError
        An image cannot be read.
    """
    callbacks = callbacks or Callbacks()
    device = setup.device
    # Steps seed torch's generators; the caller's are as before afterwards.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = _Run(setup, callbacks)
        try:
            with Interruption(callbacks.message) as interruption:
                return run.run(resume, interruption)
        finally:
            run.close()


@dataclass
class _Run:
    """A run in progress."""

    setup: TrainingSetup
    callbacks: Callbacks
    progress: Progress = field(default_factory=Progress)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = self.setup.folder
        board = folder / _BOARD if self.setup.tensorboard else None
        self.log = RunLog(folder / _LOG, tensorboard=board) if is_main_process() else None
        self.meter = Meter(self.log, self.setup.device)
        self.stopwatch = Stopwatch()

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def run(self, resume: Mapping[str, Any] | None, interruption: Interruption) -> FitReport:
        started = time.perf_counter()
        if resume is not None:
            self.progress = restore(resume, self.setup, self.callbacks.message)
        first_step = self.progress.step
        self._begin(resumed=resume is not None)
        interrupted = False
        while self.progress.epochs < self.setup.n_epochs and not interrupted:
            interrupted = not self._train_epoch(interruption)
            if not interrupted:
                self._finish_epoch()
        if interrupted:
            self._save()
        self._write("interrupted" if interrupted else "end", epoch=self.progress.epochs)
        return FitReport(
            folder=self.setup.folder,
            step=self.progress.step,
            n_steps=self.setup.n_steps,
            epochs=self.progress.epochs,
            resumed_from=first_step,
            interrupted=interrupted,
            loss=self.meter.last,
            metrics=self.metrics,
            best=self.progress.best,
            best_by=self.setup.evaluators.headline or "training loss",
            scored=BEST if self.setup.recipe.checkpoint.score == "best" else LAST,
            seconds=time.perf_counter() - started,
        )

    def _begin(self, *, resumed: bool) -> None:
        self.setup.learner.train_mode()
        if self.log is not None:
            self.log.rewind(step=self.progress.step if resumed else -1, epochs=self.progress.epochs)
        kind = "resume" if resumed else "start"
        self._write(kind, machine=self.setup.machine, versions=self.setup.versions)

    def _train_epoch(self, interruption: Interruption) -> bool:
        """Make the remaining steps of the epoch in progress; False: interrupted."""
        setup, epoch = self.setup, self.progress.epochs
        per_epoch = setup.order.steps_per_epoch
        before = epoch * per_epoch
        plan = setup.order.batches(
            epoch, first=self.progress.step - before, last=min(per_epoch, setup.n_steps - before)
        )
        if not plan:
            return True
        views = setup.recipe.views
        crops = [(view.crop, output_px(view.crop, views)) for view in views.each()]
        images = setup.images
        self.stopwatch.restart()
        with images.train.batches(
            plan,
            crops,
            seed=setup.recipe.train.seed,
            epoch=epoch,
            workers=images.workers,
            pin_memory=images.pins_memory,
        ) as raw:
            # A GPU is not waited for: while it computes a step, the next batch is read, and its copy and its
            # views are queued.
            batches = self.stopwatch.time_waiting(setup.views(one, epoch=epoch) for one in raw)
            for batch in batches:
                self._step(batch)
                if interruption.requested():
                    self._read()
                    return False
        self._read()
        return True

    def _step(self, batch: Any) -> None:
        setup, step = self.setup, self.progress.step
        recipe, learner = setup.recipe, setup.learner
        rate = learning_rate(
            recipe.schedule,
            recipe.optimiser.learning_rate,
            step=step,
            steps_per_epoch=setup.order.steps_per_epoch,
            epochs=recipe.train.epochs,
        )
        set_learning_rate(learner.optimiser, rate)
        # Drawn anew for every step and process: going on needs no generator's state.
        _seed_generators(int(hashed(recipe.train.seed, _GENERATOR_KEY, step, rank())), setup.device)
        loss = learner.step.run(batch, step=step)
        setup.evaluators.observe(learner.encoder, batch, step=step)
        self.stopwatch.add(len(batch.index) * world_size())
        self.progress = replace(self.progress, step=step + 1)
        if self.meter.add(loss, step=step + 1, epoch=self.progress.epochs + 1, rate=rate):
            self._read()
        every = recipe.checkpoint.every_steps
        if every and (step + 1) % every == 0:
            self._read()
            self._save()

    def _read(self) -> None:
        """Read the losses since last time, log them, and report the pace."""
        losses = self.meter.read(self._speed)
        if not losses:
            return
        self.progress = replace(
            self.progress,
            loss_sum=self.progress.loss_sum + math.fsum(losses),
            loss_steps=self.progress.loss_steps + len(losses),
        )
        self.callbacks.pace(self._pace())

    def _speed(self) -> dict[str, object]:
        # Asked for once the device has been waited for: only then is a window's time that of its steps.
        self.stopwatch.close_window()
        return {
            "images_per_s": round(self.stopwatch.images_per_s, 1),
            "waiting": round(self.stopwatch.waiting, 3),
        }

    def _pace(self) -> Pace:
        left = (self.setup.n_steps - self.progress.step) * self.setup.order.batch_size
        rate = self.stopwatch.images_per_s
        return Pace(
            step=self.progress.step,
            n_steps=self.setup.n_steps,
            epoch=min(self.progress.epochs + 1, self.setup.n_epochs),
            n_epochs=self.setup.n_epochs,
            loss=self.meter.last,
            images_per_s=rate,
            eta_s=left / rate if rate else math.inf,
            waiting=self.stopwatch.waiting,
        )

    def _finish_epoch(self) -> None:
        setup, done = self.setup, self.progress.epochs + 1
        loss = self.progress.loss_sum / self.progress.loss_steps if self.progress.loss_steps else math.nan
        is_last = done == setup.n_epochs
        measured: Mapping[str, float] = {}
        if setup.evaluators.is_due(done, is_last=is_last):
            measured = setup.evaluators.evaluate(self._context(done), is_last=is_last)
            self.metrics = {**self.metrics, **measured}
            self._write("evaluation", epoch=done, **measured)
        pace = self._pace()
        self._write("epoch", epoch=done, loss=loss, images_per_s=pace.images_per_s, waiting=pace.waiting)
        names: tuple[str, ...] = (BEST,) if self._is_best(loss, measured) else ()
        every = setup.recipe.checkpoint.every_epochs
        if every and done % every == 0:
            names = (*names, checkpoint_name(done))
        self.progress = replace(self.progress, epochs=done, loss_sum=0.0, loss_steps=0)
        self._save(also=names)
        shown = "".join(f", {name} {value:.4g}" for name, value in measured.items())
        self.callbacks.message(
            f"epoch {done}/{setup.n_epochs}: loss {loss:.4g}{shown}, {pace.images_per_s:,.0f} images/s, "
            f"limited by {'the loader' if pace.bottleneck == 'loader' else 'compute'}"
        )

    def _is_best(self, loss: float, measured: Mapping[str, float]) -> bool:
        """Compare the epoch with the best so far."""
        headline = self.setup.evaluators.headline
        if headline is None:
            value, better_is_higher = loss, False
        else:
            value = measured.get(headline, math.nan)
            better_is_higher = self.setup.evaluators.higher_is_better
        best = self.progress.best
        if math.isnan(value) or (best is not None and (value <= best if better_is_higher else value >= best)):
            return False
        self.progress = replace(self.progress, best=value)
        return True

    def _context(self, epoch: int) -> EvaluationContext:
        setup = self.setup
        return EvaluationContext(
            encoder=setup.learner.encoder,
            objective=setup.learner.objective,
            images=setup.images,
            device=setup.device,
            epoch=epoch,
            step=self.progress.step,
            seed=setup.recipe.train.seed,
        )

    def _save(self, *, also: tuple[str, ...] = ()) -> None:
        # All processes: a state may have to be gathered.
        document = snapshot(self.setup, self.progress)
        if is_main_process():
            write_checkpoint(self.setup.folder, document, also=also)

    def _write(self, kind: str, **values: object) -> None:
        if self.log is not None:
            self.log.write(kind, step=self.progress.step, **values)


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that networks draw from; torch.manual_seed makes a traceback for every GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class Interruption:
    """While entered, the first signal asks the loop to stop; a second Ctrl-C interrupts at once.

    Handlers can be set in the main thread only; in others nothing is changed.

    Parameters
    ----------
    message
        Called at the first signal.
    """

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message = message
        self._requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        """Take over the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def requested(self) -> bool:
        """Return whether to stop: on all processes alike, if only one of them received the signal."""
        if world_size() == 1:
            return self._requested
        # On the CPU, whatever trains: asking must not wait for a GPU.
        return bool(all_reduce(torch.tensor([float(self._requested)])) > 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._requested:
            self._requested = True
            self._message("stopping after this step (Ctrl-C again: at once, losing the steps since last.pt)")
