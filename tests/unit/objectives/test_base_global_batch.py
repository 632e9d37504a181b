"""Averages: one process is a plain mean; the mean over processes is the mean over images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mvkit.objectives import base as global_batch
from mvkit.objectives.base import Share, accuracies, batch_mean, mean_cross_entropy, share_of


def test_one_process_has_all_rows() -> None:
    values = torch.rand(5, 3)
    assert share_of(5) == Share(0, 5, 5)
    assert torch.equal(batch_mean(values), values.mean())


@pytest.mark.parametrize("counts", [(3, 3), (4, 2), (1, 4, 1)])
def test_mean_over_processes_is_mean_over_images(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.arange(12.0).view(6, 2) ** 2
    monkeypatch.setattr(global_batch, "world_size", lambda: len(counts))
    monkeypatch.setattr(global_batch, "row_counts", lambda n_own: list(counts))
    contributions = []
    first = 0
    for number, count in enumerate(counts):
        monkeypatch.setattr(global_batch, "rank", lambda number=number: number)
        assert share_of(count) == Share(first, count, 6)
        contributions.append(batch_mean(values[first : first + count]))
        first += count
    torch.testing.assert_close(torch.stack(contributions).mean(), values.mean())


def test_cross_entropy_over_images_and_views() -> None:
    logits, classes = torch.randn(4, 3, 6), torch.randint(6, (4, 3))
    expected = functional.cross_entropy(logits.view(12, 6), classes.view(12))
    torch.testing.assert_close(mean_cross_entropy(logits, classes), expected)


def test_accuracies_count_ranks() -> None:
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5]]).repeat(4, 1)
    fractions = accuracies(logits, torch.tensor([5, 4, 1, 0]))
    assert fractions["top1"] == 0.25
    assert fractions["top5"] == 0.75
    assert set(accuracies(logits[:, :5], torch.zeros(4, dtype=torch.int64))) == {"top1"}
