"""Number formats of training: what runs in half precision, and scaling of gradients that need it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, optim

from mvkit.errors import UsageError
from mvkit.naming import unknown_name

PrecisionName = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Mixed precision of one training step.

    Networks run under autocast, losses in float32; parameters, gradients and
    the optimiser's state are float32 throughout. "fp16" scales the loss
    (Micikevicius et al. 2018) and skips a step whose gradients overflow.

    Parameters
    ----------
    name
        "fp32", "bf16" or "fp16".
    device
        Where training runs.

    Raises
    ------
    UsageError
        For an unknown name, or one that the device cannot run.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in get_args(PrecisionName):
            raise unknown_name("precision", name, get_args(PrecisionName))
        if name == "fp16" and device.type != "cuda":
            raise UsageError(f"precision fp16 needs a CUDA device, not {device.type}: use bf16 or fp32")
        if (
            name == "bf16"
            and device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise UsageError("precision bf16 is slower than fp32 on this GPU (no bfloat16 units): use fp16")
        self.name = name
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_HALVES[self.name])

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` on."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def step(self, optimiser: optim.Optimizer) -> None:
        """Let the optimiser step with the true (unscaled) gradients."""
        if self._scaler is None:
            optimiser.step()
            return
        self._scaler.step(optimiser)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale and its history (empty without scaling)."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the loss scale of a checkpoint; one written in another precision starts afresh."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
