"""Optimisers and learning rates: LARS, schedules, which parameters are adapted and decayed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from mvkit.errors import FitError
from mvkit.training.recipe import Adam, CosineSchedule, Schedule, Sgd, StepSchedule
from mvkit.training.recipe import Lars as LarsSettings
from mvkit.training.recipe import Optimiser as OptimiserSettings


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling.

    For a parameter w with gradient g: local rate ``l = trust |w| / (|g| +
    decay |w| + epsilon)``, velocity ``v = momentum v + lr l (g + decay w)``,
    ``w = w - v`` (You et al. 2017, algorithm 1: the global rate is inside the
    velocity). Parameters of groups with ``adapt=False`` have ``l = 1``. So has a
    parameter that is still zero: the formula would keep it there for ever.

    A step uses gradients up: they hold something else afterwards.

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
        # In the gradient's own memory: on a CPU, a fresh tensor costs more than the arithmetic in it.
        decay, lr = group["weight_decay"], group["lr"]
        local_rate = _local_rate(parameter, gradient, group) if group["adapt"] else None
        change = (gradient.add_(parameter, alpha=decay) if decay else gradient).mul_(lr)
        if local_rate is not None:
            change.mul_(local_rate)
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity = state["velocity"].mul_(group["momentum"]).add_(change)
        ahead = change.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
        parameter.sub_(ahead)


def _local_rate(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    # Stays a tensor: reading the norms back would stop a GPU once for every layer.
    weight, slope = parameter.norm(), gradient.norm()
    divisor = slope + group["weight_decay"] * weight + group["epsilon"]
    usable = (weight > 0) & (divisor > 0)
    rate = group["trust_coefficient"] * weight / torch.where(usable, divisor, torch.ones_like(divisor))
    return torch.where(usable, rate, torch.ones_like(rate))


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


#: Entry of a parameter group: its rate as a multiple of the optimiser's.
_FACTOR = "rate_factor"

#: Names of parameters that the reference excluded from LARS's adaptation and decay, a rule of the software
#: that its SimCLR was taken from (OpenSelfSup, configs/selfsup/simclr, ``paramwise_options``).
_PUBLISHED_EXCLUSION = re.compile(r"(bn|gn)\d*\.(weight|bias)$|bias")

#: Modules whose parameters are scales and shifts of a norm.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimiser(settings: OptimiserSettings, modules: Sequence[nn.Module]) -> optim.Optimizer:
    """Build the optimiser of all trainable parameters of some modules (encoder, objective).

    Parameters
    ----------
    settings
        The recipe's optimiser.
    modules
        Their parameters are taken in this order; frozen ones and repetitions are left out.

    Raises
    ------
    FitError
        There is nothing to train.
    """
    trained = list(_trainable(modules))
    if not trained:
        raise FitError("neither the network nor the objective has parameters to train")
    parameters = [one.parameter for one in trained]
    if isinstance(settings, Sgd):
        return optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            fused=True,
        )
    if isinstance(settings, Adam):
        kind = optim.AdamW if settings.name == "adamw" else optim.Adam
        return kind(
            parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return _build_lars(settings, trained)


def _build_lars(settings: LarsSettings, trained: Sequence[_TrainedParameter]) -> Lars:
    excluded = [one.parameter for one in trained if _is_excluded(settings.exclude, one)]
    adapted = [one.parameter for one in trained if not _is_excluded(settings.exclude, one)]
    own_rate = settings.excluded_learning_rate
    factor = 1.0 if own_rate is None else own_rate / settings.learning_rate
    groups = [
        {"params": adapted, "weight_decay": settings.weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": False, _FACTOR: factor},
    ]
    return Lars(
        [group for group in groups if group["params"]],
        settings.learning_rate,
        momentum=settings.momentum,
        trust_coefficient=settings.trust_coefficient,
        epsilon=settings.epsilon,
        nesterov=settings.nesterov,
    )


class _TrainedParameter(NamedTuple):
    """A trainable parameter, its full name, and whether it belongs to a norm (by type of module)."""

    parameter: nn.Parameter
    name: str
    is_of_norm: bool


def _is_excluded(exclude: str, one: _TrainedParameter) -> bool:
    if exclude == "published":
        return bool(_PUBLISHED_EXCLUSION.search(one.name))
    return exclude == "bias_and_norm" and (one.is_of_norm or one.name.rpartition(".")[2] == "bias")


def _trainable(modules: Sequence[nn.Module]) -> Iterator[_TrainedParameter]:
    """Yield every trainable parameter once."""
    seen: set[int] = set()
    for root in modules:
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _TrainedParameter(parameter, f"{path}.{name}", isinstance(module, _NORMS))


def set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """Give all parameters this learning rate, or their fixed multiple of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)
