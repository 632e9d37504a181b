"""One step: accumulation against the whole batch at once, what batch norms and dropout do, precision."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.objectives.registry import OBJECTIVES
from mvkit.training.step import StepSettings, TrainStep

CPU = torch.device("cpu")
F64 = torch.float64


def steps(small: ModuleType, name: str, settings: StepSettings, *, norms: bool) -> dict[str, Any]:
    """Take some steps; without ``norms`` all batch norms use their first statistics."""
    encoder, objective = small.build(name, F64)
    if not norms:
        for module in (*encoder.modules(), *objective.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    step = TrainStep(
        encoder, objective, small.optimiser_of(encoder, objective), settings=settings, device=CPU
    )
    # A last, partial batch too.
    batches = [*small.global_batches(objective.n_inputs, 8), *small.global_batches(objective.n_inputs, 5)]
    losses = [step.run(batch, step=number) for number, batch in enumerate(batches)]
    return {
        "losses": torch.stack([loss.total for loss in losses]),
        "parts": torch.tensor([[float(part) for part in loss.parts.values()] for loss in losses]),
        **small.state_of(encoder, objective),
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        # Steep losses multiply rounding within a few steps; logged parts are float32.
        rtol = 1e-6 if tensor.dtype == F64 else 1e-5
        torch.testing.assert_close(
            found[key], tensor, rtol=rtol, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_give_the_whole_batchs_step_without_norms(small: ModuleType, name: str) -> None:
    whole = steps(small, name, StepSettings(), norms=False)
    # 4 cuts 8 rows evenly and 5 unevenly; 6 is more than there are rows.
    for accumulate in (4, 6):
        assert_same(steps(small, name, StepSettings(accumulate=accumulate), norms=False), whole)


class WithDropout(nn.Module):
    """An encoder whose output depends on the generator and on the other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


def build_with_dropout(small: ModuleType) -> tuple[nn.Module, Any, torch.optim.Optimizer]:
    _, objective = small.build("simclr", F64)
    torch.manual_seed(2)
    encoder = WithDropout().to(F64)
    objective.neck = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6)).to(F64)
    return encoder, objective, small.optimiser_of(encoder, objective)


def test_two_passes_equal_one_graph_over_all_micro_batches(small: ModuleType) -> None:
    """Norms of micro-batches, dropout and running statistics as if memory were no matter."""
    (batch, *_) = small.global_batches(2, 8)
    encoder, objective, optimiser = build_with_dropout(small)
    torch.manual_seed(7)
    pieces = [objective.embed(encoder, batch.rows(first, first + 4)) for first in (0, 4)]
    loss = objective.criterion(tuple(torch.cat(column) for column in zip(*pieces, strict=True)), batch)
    loss.total.backward()
    optimiser.step()
    expected, drawn_after = small.state_of(encoder, objective), torch.rand(1)

    encoder, objective, optimiser = build_with_dropout(small)
    step = TrainStep(encoder, objective, optimiser, settings=StepSettings(accumulate=2), device=CPU)
    torch.manual_seed(7)
    found = step.run(batch, step=0)
    assert_same(small.state_of(encoder, objective), expected)
    torch.testing.assert_close(found.total, loss.total.detach(), rtol=1e-12, atol=0)
    assert torch.equal(torch.rand(1), drawn_after)
    assert all(
        module.track_running_stats for module in encoder.modules() if isinstance(module, nn.BatchNorm1d)
    )


def test_accumulation_says_what_differs(small: ModuleType) -> None:
    def notes(name: str, **settings: Any) -> tuple[str, ...]:
        encoder, objective = small.build(name, F64)
        optimiser = small.optimiser_of(encoder, objective)
        return TrainStep(encoder, objective, optimiser, settings=StepSettings(**settings), device=CPU).notes()

    assert notes("simclr") == ()
    assert notes("linear_readout") == ()
    norms, passes = notes("simclr", accumulate=4)
    assert "1/4 of a batch" in norms and "4 times a step" in norms
    assert "twice" in passes
    assert len(notes("cross_entropy", accumulate=4)) == 1
    assert notes("cross_entropy", precision="bf16") == (
        "networks run in bf16, losses and updates in float32",
    )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_bf16_stays_near_float32(small: ModuleType, name: str, accumulate: int) -> None:
    """Half precision errs by 2**-8 relative; parameters and losses stay float32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        encoder, objective = small.build(name, torch.float32)
        settings = StepSettings(accumulate=accumulate, precision=precision, channels_last=precision == "bf16")
        step = TrainStep(
            encoder, objective, small.optimiser_of(encoder, objective), settings=settings, device=CPU
        )
        batch = next(iter(small.global_batches(objective.n_inputs, 8)))
        loss = step.run(small.own_rows(batch, torch.float32), step=0)
        assert loss.total.dtype == torch.float32 and not loss.total.requires_grad
        trained = (p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained)
        losses[precision] = float(loss.total)
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_channels_last_changes_memory_order_only(small: ModuleType) -> None:
    plain = steps(small, "cross_entropy", StepSettings(), norms=True)
    assert_same(steps(small, "cross_entropy", StepSettings(channels_last=True), norms=True), plain)


def test_impossible_settings_are_refused(small: ModuleType) -> None:
    encoder, objective = small.build("cross_entropy", torch.float32)
    optimiser = small.optimiser_of(encoder, objective)
    with pytest.raises(UsageError, match="fp16 needs a CUDA device, not cpu"):
        TrainStep(encoder, objective, optimiser, settings=StepSettings(precision="fp16"), device=CPU)
    with pytest.raises(UsageError, match="did you mean 'bf16'"):
        TrainStep(
            encoder,
            objective,
            optimiser,
            settings=StepSettings(precision="bf61"),  # type: ignore[arg-type]
            device=CPU,
        )
    with pytest.raises(UsageError, match="0 micro-batches"):
        StepSettings(accumulate=0)


def test_a_batch_without_images_is_refused(small: ModuleType) -> None:
    encoder, objective = small.build("cross_entropy", F64)
    step = TrainStep(encoder, objective, small.optimiser_of(encoder, objective), device=CPU)
    (batch, *_) = small.global_batches(1, 8)
    with pytest.raises(UsageError, match="process 0 of 1 has no images"):
        step.run(batch.rows(0, 0), step=0)
