"""Which parameters are trained, adapted and decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mvkit.distributed import synchronise_norms
from mvkit.errors import FitError
from mvkit.objectives.heads import simclr_neck
from mvkit.training.optim import Lars, build_optimiser, set_learning_rate
from mvkit.training.recipe import Adam, Sgd
from mvkit.training.recipe import Lars as LarsSettings


class Net(nn.Module):
    """Layers of all kinds; one is named like a norm and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.bn_like = nn.Linear(3, 4)
        self.scale = nn.BatchNorm1d(4)
        self.other = nn.LayerNorm(4)
        self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.again = self.bn_like


@pytest.mark.parametrize("synchronised", [False, True])
def test_lars_excludes_by_kind_of_module(synchronised: bool) -> None:
    net = Net()
    if synchronised:
        synchronise_norms(net, torch.device("cpu"))
    optimiser = build_optimiser(LarsSettings(learning_rate=1.0, weight_decay=0.1), [net])
    adapted, excluded = optimiser.param_groups
    assert [id(p) for p in adapted["params"]] == [id(net.bn_like.weight)]
    expected = [net.bn_like.bias, net.scale.weight, net.scale.bias, net.other.weight, net.other.bias]
    assert [id(p) for p in excluded["params"]] == [id(p) for p in expected]
    assert (adapted["adapt"], adapted["weight_decay"]) == (True, 0.1)
    assert (excluded["adapt"], excluded["weight_decay"]) == (False, 0.0)


def test_lars_without_exceptions() -> None:
    settings = LarsSettings(learning_rate=1.0, weight_decay=0.1, exclude="none")
    (group,) = build_optimiser(settings, [Net()]).param_groups
    assert len(group["params"]) == 6 and group["adapt"]


class Named(nn.Module):
    """A network whose norms are numbered, as AlexNet's, and one whose norms are named, as a ResNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.bn1 = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))


def test_lars_excludes_by_name_as_published() -> None:
    net, head = Named(), simclr_neck(4, 5, 6)
    settings = LarsSettings(learning_rate=1.0, weight_decay=0.1, exclude="published")
    adapted, excluded = build_optimiser(settings, [net, head]).param_groups
    # The pattern's ``bn`` has to stand in the name: scales of numbered norms are adapted and decayed.
    expected = [*(net.features[i].weight for i in (0, 1)), *(net.downsample[i].weight for i in (0, 1))]
    expected += [head.fc0.weight, head.fc1.weight]
    assert [id(p) for p in adapted["params"]] == [id(p) for p in expected]
    assert len(excluded["params"]) == 9
    assert {id(net.features[1].bias), id(net.bn1.weight), id(head.bn0.weight)} <= {
        id(p) for p in excluded["params"]
    }
    assert (excluded["adapt"], excluded["weight_decay"]) == (False, 0.0)


def test_lars_gives_biases_and_norms_a_rate_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    settings = LarsSettings(learning_rate=1.6, excluded_learning_rate=0.4)
    optimiser = build_optimiser(settings, [net])
    set_learning_rate(optimiser, 0.8)
    assert [group["lr"] for group in optimiser.param_groups] == [0.8, pytest.approx(0.2)]
    before = net[0].bias.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    torch.testing.assert_close(net[0].bias.detach(), before - 0.2)


def test_lars_by_hand() -> None:
    """w = (3, 4), g = (0, 2): l = .1 * 5 / (2 + .2 * 5) = 1/6; twice the same gradient."""
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimiser = Lars([w], 0.5, momentum=0.5, weight_decay=0.2, trust_coefficient=0.1)
    gradient = torch.tensor([0.0, 2.0], dtype=torch.float64)
    w.grad = gradient.clone()  # a step uses it up
    optimiser.step()
    velocity = torch.tensor([0.6, 2.8], dtype=torch.float64) * 0.5 / 6
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) - velocity
    torch.testing.assert_close(w.detach(), expected)
    rate = 0.1 * expected.norm() / (2 + 0.2 * expected.norm())
    velocity = 0.5 * velocity + 0.5 * rate * (gradient + 0.2 * expected)
    w.grad = gradient.clone()
    optimiser.step()
    torch.testing.assert_close(w.detach(), expected - velocity)


def test_lars_lets_a_zero_parameter_leave_zero() -> None:
    w = nn.Parameter(torch.zeros(2))
    optimiser = Lars([w], 0.5, momentum=0.0, trust_coefficient=0.1)
    w.grad = torch.tensor([1.0, 0.0])
    optimiser.step()
    assert w.tolist() == [-0.5, 0.0]


def test_lars_looks_ahead_with_nesterov() -> None:
    w = nn.Parameter(torch.tensor([1.0]))
    optimiser = Lars([{"params": [w], "adapt": False}], 0.1, momentum=0.5, nesterov=True)
    w.grad = torch.tensor([1.0])
    optimiser.step()
    # velocity .1, step .1 + .5 * .1
    assert w.item() == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Sgd(learning_rate=0.1, nesterov=True), torch.optim.SGD),
        (Adam(name="adam", learning_rate=0.1), torch.optim.Adam),
        (Adam(name="adamw", learning_rate=0.1), torch.optim.AdamW),
    ],
)
def test_torchs_own(settings: Sgd | Adam, kind: type[torch.optim.Optimizer]) -> None:
    optimiser = build_optimiser(settings, [Net(), nn.Linear(1, 1)])
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert len(group["params"]) == 8 and group["lr"] == 0.1
    set_learning_rate(optimiser, 0.01)
    assert group["lr"] == 0.01


def test_nothing_to_train() -> None:
    with pytest.raises(FitError, match="parameters to train"):
        build_optimiser(Sgd(learning_rate=0.1), [nn.ReLU()])
