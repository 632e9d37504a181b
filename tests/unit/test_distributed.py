"""Gathering, sums, batch norms and averaged gradients: two processes with unequal rows against one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mvkit.distributed import SyncBatchNormCpu, all_gather, all_reduce, synchronise_norms
from mvkit.errors import UsageError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SCRIPT = Path(__file__).parent / "exchanges.py"
Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def alone(run_group: Callable[..., list[Results]]) -> Results:
    return run_group(SCRIPT, 1)[0]


@pytest.fixture(scope="module")
def pair(run_group: Callable[..., list[Results]]) -> list[Results]:
    return run_group(SCRIPT, 2)


def assert_same(alone: Results, pair: list[Results], chosen: Callable[[str], bool], *, atol: float) -> None:
    keys = [key for key in alone if chosen(key)]
    assert keys
    for process in pair:
        for key in keys:
            torch.testing.assert_close(
                process[key], alone[key], rtol=1e-12, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_each_process_knows_its_place(alone: Results, pair: list[Results]) -> None:
    assert alone["place"].tolist() == [0, 1, 1, 5]
    assert [process["place"].tolist() for process in pair] == [[0, 2, 1, 5, 2], [1, 2, 0, 5, 2]]


def test_gathered_rows_are_in_rank_order_in_every_dtype(alone: Results, pair: list[Results]) -> None:
    assert_same(alone, pair, lambda key: key.startswith("gathered"), atol=0)


def test_gradients_through_gathering_and_summing_are_those_of_one_process(
    alone: Results, pair: list[Results]
) -> None:
    assert_same(alone, pair, lambda key: key.startswith(("gather/", "total/")), atol=1e-12)


@pytest.mark.parametrize("maps", ["0", "2"])
@pytest.mark.parametrize("name", ["plain", "cumulative", "affine_free", "untracked"])
def test_norms_are_those_of_all_rows(alone: Results, pair: list[Results], name: str, maps: str) -> None:
    # Rows near 1e4 hold 12 digits after the point; normalised rows and gradients inherit that.
    assert_same(alone, pair, lambda key: key.startswith(f"{name}/{maps}/"), atol=1e-11)


def test_norms_of_one_process_are_torchs_own_bits() -> None:
    rows = torch.randn(6, 3, 4, 4)
    plain, converted = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    synchronise_norms(converted, CPU)
    assert isinstance(converted, SyncBatchNormCpu)
    assert torch.equal(plain(rows), converted(rows))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, converted.state_dict()[key])


def test_gradients_are_averaged_and_unused_parameters_get_none(alone: Results, pair: list[Results]) -> None:
    assert_same(alone, pair, lambda key: key.startswith("average/"), atol=1e-13)
    unused = [key for key in alone if key.startswith("average/") and key.endswith("unused")]
    assert unused and all(process[key].numel() == 0 for process in pair for key in unused)


def test_alone_nothing_is_copied() -> None:
    rows = torch.ones(2, 3)
    assert all_gather(rows) is rows
    assert all_reduce(rows) is rows


def test_a_scalar_has_no_rows() -> None:
    with pytest.raises(UsageError, match="scalar has no rows"):
        all_gather(torch.tensor(1.0))


def test_norms_of_every_kind_are_converted_in_place_once_or_twice() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm3d(2)), nn.ReLU())
    modules, keys = list(network.modules()), list(network.state_dict())
    parameters = list(network.parameters())
    for _ in range(2):
        synchronise_norms(network, CPU)
        assert [type(module) for module in network.modules()].count(SyncBatchNormCpu) == 3
        assert all(a is b for a, b in zip(network.modules(), modules, strict=True))
        assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
        assert list(network.state_dict()) == keys
    rows = torch.randn(4, 2, 3, 3, 3)
    torch.testing.assert_close(network[1][1](rows), nn.BatchNorm3d(2)(rows), rtol=0, atol=0)


def test_on_gpus_norms_are_torchs_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3))
    network.eval()
    rows = torch.randn(2, 3, 5, 5)
    expected = network(rows)
    synchronise_norms(network, torch.device("cuda"))
    assert type(network[1]) is nn.SyncBatchNorm and network[1].momentum == 0.3
    # Alone, and in eval mode, it is a plain norm on any device.
    assert torch.equal(network(rows), expected)
    network.train()
    network(rows)
    assert network[1].num_batches_tracked == 1
