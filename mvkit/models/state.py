"""Identity of a network's weights by their content."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def state_digest(model: nn.Module) -> str:
    """Return "state:" and the sha256 over a state dict (keys, dtypes, shapes, values); "none" if empty."""
    sha256 = hashlib.sha256()
    state = model.state_dict()
    for key, value in state.items():
        if isinstance(value, Tensor):
            sha256.update(f"{key};{value.dtype};{tuple(value.shape)};".encode())
            sha256.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"state:{sha256.hexdigest()}" if state else "none"
