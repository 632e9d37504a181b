"""Learning rate as a function of the step: nothing is accumulated, so a resumed run needs no state."""

from __future__ import annotations

import math

from mvkit.training.recipe import CosineSchedule, Schedule, StepSchedule


def learning_rate(schedule: Schedule, base: float, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    schedule
        Kind, warm-up, and whether the rate changes with every epoch or every step.
    base
        The recipe's learning rate.
    step
        0-based, counted from the beginning of training.
    steps_per_epoch, epochs
        Length of training.

    Notes
    -----
    Time ``x`` is in epochs. With a warm-up of ``W`` epochs it is taken at the
    *end* of the epoch or step, so that the first one already learns and epoch
    ``W - 1`` has the full rate; the last one of a cosine then has its final
    rate (goldens README section 3, ``lars_and_schedule``). Without a warm-up
    it is taken at the beginning, as Chen & He (2021) and He et al. (2020) did:
    the first epoch has the full rate; with ``rate_at: end``, as the reference
    trained SimSiam and MoCo v2, at the end. Up to ``W``:
    ``ratio + (1 - ratio) x / W``; then a cosine over the remaining epochs
    (Loshchilov & Hutter 2017, eq. 5). Milestones count whole epochs.
    """
    warmup = schedule.warmup_epochs
    done = step // steps_per_epoch if schedule.unit == "epoch" else step
    per_epoch = 1 if schedule.unit == "epoch" else steps_per_epoch
    at_end = warmup or (isinstance(schedule, CosineSchedule) and schedule.rate_at == "end")
    time = (done + 1 if at_end else done) / per_epoch
    if warmup and time <= warmup:
        ratio = schedule.warmup_ratio
        return base * (ratio + (1 - ratio) * time / warmup)
    if isinstance(schedule, CosineSchedule):
        progress = min((time - warmup) / (epochs - warmup), 1.0)
        falling = 0.5 * (1 + math.cos(math.pi * progress))
        return base * (schedule.final_ratio + (1 - schedule.final_ratio) * falling)
    if isinstance(schedule, StepSchedule):
        epoch = step // steps_per_epoch
        return base * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
    return base
