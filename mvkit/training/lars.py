"""LARS: stochastic gradient descent whose rate is adapted to every layer (You, Gitman & Ginsburg 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling.

    For a parameter w with gradient g: local rate ``l = trust |w| / (|g| +
    decay |w| + epsilon)``, velocity ``v = momentum v + lr l (g + decay w)``,
    ``w = w - v`` (You et al. 2017, algorithm 1: the global rate is inside the
    velocity). Parameters of groups with ``adapt=False`` have ``l = 1``. So has a
    parameter that is still zero: the formula would keep it there for ever.

    Parameters
    ----------
    params
        Parameter groups; ``adapt`` (bool) and ``weight_decay`` may differ between them.
    lr
        Global learning rate.
    momentum, weight_decay, trust_coefficient, epsilon, nesterov
        As in the formula; ``nesterov`` looks ahead along the velocity.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "epsilon": epsilon,
            "nesterov": nesterov,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        direction = gradient.add(parameter, alpha=decay) if decay else gradient
        change = direction * group["lr"]
        if group["adapt"]:
            change = change * _local_rate(parameter, gradient, group)
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity = state["velocity"].mul_(group["momentum"]).add_(change)
        ahead = change.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
        parameter.sub_(ahead)


def _local_rate(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    # Stays a tensor: reading the norms back would stop a GPU once for every layer.
    weight, slope = parameter.norm(), gradient.norm()
    below = slope + group["weight_decay"] * weight + group["epsilon"]
    usable = (weight > 0) & (below > 0)
    rate = group["trust_coefficient"] * weight / torch.where(usable, below, torch.ones_like(below))
    return torch.where(usable, rate, torch.ones_like(rate))
