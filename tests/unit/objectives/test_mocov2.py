"""MoCo v2: loss against lightly, queue, momentum copy, shuffle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from mvkit.objectives import mocov2
from mvkit.objectives.base import Share

Make = Callable[..., Any]


@pytest.fixture
def encoder(small: Any, tiny: Make) -> Any:
    return tiny(small["mocov2"])


@pytest.fixture
def objective(small: Any, encoder: Any, build: Make) -> Any:
    return build(small["mocov2"], encoder)


def _unit(n_rows: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n_rows, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(rows, dim=1)


def test_loss_and_gradient_equal_lightlys(objective: Any) -> None:
    lightly_loss = pytest.importorskip(
        "lightly.loss", reason="lightly is a second oracle: pip install lightly"
    )
    objective.double()
    ours, theirs = _unit(5, 1).requires_grad_(), _unit(5, 1).requires_grad_()
    keys = _unit(5, 2)
    # lightly normalises by itself.
    queries = functional.normalize(ours, dim=1)
    total = objective.criterion((queries, keys), None).total
    loss = lightly_loss.NTXentLoss(temperature=objective.settings.temperature, memory_bank_size=(48, 16))
    loss.memory_bank.bank = objective.queue.clone()
    loss.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    expected = loss(theirs, keys)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    # Both write the keys after the loss.
    objective.after_step((queries.detach(), keys), None)
    torch.testing.assert_close(objective.queue, loss.memory_bank.bank)


@pytest.mark.parametrize("n_keys", [5, 16, 48, 100])
def test_the_queue_holds_the_latest_keys(objective: Any, n_keys: int) -> None:
    """Compared with a list that grows for ever."""
    written: list[torch.Tensor] = []
    start = objective.queue.clone()
    for step in range(7):
        keys = _unit(n_keys, step).float()
        objective.after_step((keys, keys), None)
        written.extend(keys)
    expected = start
    for place, key in enumerate(written):
        expected[place % 48] = key
    assert torch.equal(objective.queue, expected)
    assert int(objective.position) == 7 * n_keys % 48


def test_the_copy_follows_parameters_not_statistics(objective: Any, encoder: Any, batch_for: Make) -> None:
    # A frozen parameter, as the masks of the connectome models are, must not drift by rounding.
    frozen = torch.nn.Parameter(torch.rand(100), requires_grad=False)
    encoder.register_parameter("mask", frozen)
    objective.key_encoder.register_parameter("mask", torch.nn.Parameter(frozen.clone(), requires_grad=False))
    key = {name: value.clone() for name, value in objective.key_encoder.named_parameters()}
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter += 1
    encoder.norm.running_mean += 5
    objective.before_step(encoder, step=1)
    for name, value in objective.key_encoder.named_parameters():
        if name == "mask":
            assert torch.equal(value, frozen)
        else:
            torch.testing.assert_close(value, key[name] + 0.1)
    assert (objective.key_encoder.norm.running_mean == 0).all()
    assert not any(value.requires_grad for value in objective.key_encoder.parameters())
    assert not any(value.requires_grad for value in objective.key_neck.parameters())


def test_the_copy_starts_equal_and_keeps_the_original_trainable(objective: Any, encoder: Any) -> None:
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    copy = objective.key_encoder.state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, copy[name])
    for name, value in objective.neck.state_dict().items():
        assert torch.equal(value, objective.key_neck.state_dict()[name])


def test_the_shuffle_is_a_new_permutation_in_every_step(objective: Any, encoder: Any) -> None:
    shuffles = []
    for step in range(3):
        objective.before_step(encoder, step=step)
        shuffles.append(objective.draw_shuffle(64))
        assert torch.equal(shuffles[-1], objective.draw_shuffle(64))
        assert shuffles[-1].sort().values.tolist() == list(range(64))
    assert not torch.equal(shuffles[0], shuffles[1])
    assert not torch.equal(shuffles[1], shuffles[2])


@pytest.mark.parametrize("counts", [(8, 8), (7, 9)])
def test_processes_exchange_images_and_get_their_keys_back(
    objective: Any, batch_for: Make, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int]
) -> None:
    """Two processes, one after the other: gathering brings what the other one would have sent."""
    images = batch_for(objective).views[1]
    objective.eval()
    expected = objective._encode_keys(images)
    in_shuffled_order = expected[objective.draw_shuffle(16)]
    seen: list[list[float]] = []

    def encode(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.flatten(1).sum(1).tolist())
        return in_shuffled_order[own]

    for own in (slice(0, counts[0]), slice(counts[0], 16)):
        gathered = iter((images, in_shuffled_order))
        share = Share(own.start, own.stop - own.start, 16)
        with monkeypatch.context() as patch:
            patch.setattr(mocov2, "world_size", lambda: 2)
            patch.setattr(mocov2, "share_of", lambda n_own, share=share: share)
            patch.setattr(mocov2, "all_gather", lambda rows, gathered=gathered: next(gathered))
            patch.setattr(objective, "_encode_keys", encode)
            assert torch.equal(objective._keys(images[own]), expected[own])
    # Together they saw every image once, and each process some of the other's.
    marks = images.flatten(1).sum(1).tolist()
    assert sorted(seen[0] + seen[1]) == sorted(marks)
    assert not set(seen[0]) <= set(marks[: counts[0]])
