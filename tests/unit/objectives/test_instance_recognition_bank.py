"""The bank: start, chosen products, update, neighbours."""

from __future__ import annotations

import pytest
import torch

from mvkit.objectives import instance_recognition as memory_bank
from mvkit.objectives.instance_recognition import MemoryBank


@pytest.fixture
def bank() -> MemoryBank:
    return MemoryBank(50, 6, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(params=[1, 40, 10**6])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory_bank, "_BLOCK_CPU", request.param)
    return int(request.param)


def test_starts_as_unit_vectors_of_a_cube(bank: MemoryBank) -> None:
    torch.testing.assert_close(bank.entries.norm(dim=1), torch.ones(50, dtype=torch.float64))
    # Uniform in a cube before normalisation: no direction is preferred.
    many = MemoryBank(20_000, 3, generator=torch.Generator().manual_seed(1)).entries
    assert many.mean(0).abs().max() < 5 / (3 * 20_000) ** 0.5
    assert torch.equal(MemoryBank(9, 3, generator=torch.Generator().manual_seed(1)).entries, many[:9])


def test_products_are_those_of_gathered_entries(bank: MemoryBank, block: int) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    index = torch.randint(50, (7, 11), generator=generator)
    expected = torch.einsum("nd,nmd->nm", rows, bank.entries[index])
    torch.testing.assert_close(bank.products(rows, index), expected)


def test_products_have_the_right_gradient(bank: MemoryBank, block: int) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 6, dtype=torch.float64, generator=generator).requires_grad_()
    # An entry drawn twice counts twice.
    index = torch.tensor([[0, 0, 5], [7, 8, 9], [49, 1, 49]])
    assert torch.autograd.gradcheck(lambda values: bank.products(values, index), rows)


def test_changing_the_bank_before_the_gradient_is_noticed(bank: MemoryBank) -> None:
    rows = torch.randn(2, 6, dtype=torch.float64).requires_grad_()
    products = bank.products(rows, torch.tensor([[0], [1]]))
    bank.update(torch.tensor([0]), rows.detach()[:1], momentum=0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        products.sum().backward()


def test_update_mixes_and_normalises(bank: MemoryBank) -> None:
    before = bank.entries.clone()
    index = torch.tensor([4, 1])
    fresh = torch.eye(6, dtype=torch.float64)[:2]
    bank.update(index, fresh, momentum=0.25)
    for row, at in enumerate(index):
        mixed = 0.25 * before[at] + 0.75 * fresh[row]
        torch.testing.assert_close(bank.entries[at], mixed / mixed.norm())
    rest = [row for row in range(50) if row not in index]
    assert torch.equal(bank.entries[rest], before[rest])


@pytest.mark.parametrize("k", [1, 5, 50])
def test_neighbours_are_those_of_the_full_table(bank: MemoryBank, block: int, k: int) -> None:
    rows = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    values, places = bank.nearest(rows, k=k)
    full_values, full_places = (rows @ bank.entries.T).sort(dim=1, descending=True)
    torch.testing.assert_close(values, full_values[:, :k])
    assert torch.equal(places, full_places[:, :k])


def test_no_images_have_no_neighbours(bank: MemoryBank) -> None:
    values, places = bank.nearest(torch.empty(0, 6, dtype=torch.float64), k=3)
    assert values.shape == places.shape == (0, 3)
