"""Learning rates, worked out by hand."""

from __future__ import annotations

import math

import pytest

from mvkit.training.optim import learning_rate
from mvkit.training.recipe import ConstantSchedule, CosineSchedule, StepSchedule


def rates(schedule, *, epochs: int, steps: int) -> list[float]:
    return [
        learning_rate(schedule, 2.0, step=step, steps_per_epoch=steps, epochs=epochs)
        for step in range(epochs * steps)
    ]


def test_milestones_count_whole_epochs() -> None:
    found = rates(StepSchedule(milestones=(1, 3), factor=0.1), epochs=4, steps=2)
    assert found == pytest.approx([2, 2, 0.2, 0.2, 0.2, 0.2, 0.02, 0.02])
    assert rates(StepSchedule(milestones=(1, 3), factor=0.1, unit="step"), epochs=4, steps=2) == found


def test_cosine_without_warm_up_begins_with_the_full_rate() -> None:
    found = rates(CosineSchedule(), epochs=4, steps=1)
    assert found == pytest.approx([2 * 0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])


def test_cosine_at_the_end_of_epochs_reaches_its_final_rate() -> None:
    """The reference's SimSiam and MoCo v2: (epoch + 1) / epochs, so that the last epoch learns nothing."""
    found = rates(CosineSchedule(rate_at="end"), epochs=4, steps=1)
    assert found == pytest.approx([2 * 0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3, 4)])
    assert found[-1] == 0


def test_cosine_per_step_down_to_a_remainder() -> None:
    found = rates(CosineSchedule(unit="step", final_ratio=0.5), epochs=2, steps=2)
    assert found[0] == 2.0
    assert found[2] == pytest.approx(2 * 0.75)
    assert found[3] == pytest.approx(2 * (0.5 + 0.5 * 0.5 * (1 - math.sqrt(0.5))))


def test_warm_up_per_step_and_per_epoch() -> None:
    per_step = ConstantSchedule(warmup_epochs=2, warmup_ratio=0.5, unit="step")
    assert rates(per_step, epochs=3, steps=2) == pytest.approx([1.25, 1.5, 1.75, 2, 2, 2])
    per_epoch = ConstantSchedule(warmup_epochs=2)
    assert rates(per_epoch, epochs=3, steps=2) == pytest.approx([1, 1, 2, 2, 2, 2])


def test_warm_up_before_milestones() -> None:
    schedule = StepSchedule(warmup_epochs=2, milestones=(3,))
    assert rates(schedule, epochs=4, steps=1) == pytest.approx([1, 2, 2, 0.2])


def test_a_fraction_of_an_epoch_warms_up_too() -> None:
    schedule = ConstantSchedule(warmup_epochs=0.5, unit="step")
    assert rates(schedule, epochs=1, steps=4) == pytest.approx([1, 2, 2, 2])
