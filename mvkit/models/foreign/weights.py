"""Weights from a file into a network from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mvkit.errors import CheckpointError
from mvkit.models.checkpoint import find_weights, read_checkpoint
from mvkit.models.foreign.wrappers import WRAPPER_PARTS, without_wrappers
from mvkit.models.matching import fit_state

#: Counts of batches seen, which evaluation does not use and checkpoints of torch before 0.4.1 do not have.
_COUNTS = "num_batches_tracked"


def fill_foreign(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a network's parameters and buffers from a file, whatever wrappers it was saved under.

    Parameters
    ----------
    network
        The network; every entry of its state dict is overwritten.
    path
        ``.safetensors``, or a file written by ``torch.save``, which is read without running what it names.
    model_name
        For messages.

    Raises
    ------
    CheckpointError
        If the file is missing, cannot be read or does not fit (missing, unexpected and mis-shaped keys are
        named).
    """
    found = read_state(path)
    state = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    if not any(key.endswith(_COUNTS) for key in found):
        state = {key: value for key, value in state.items() if not key.endswith(_COUNTS)}
    plain = without_wrappers(state)
    expected = {plain[key]: value for key, value in state.items()}
    if len(expected) < len(state):
        # The network has modules of its own under a wrapper's name; only exact names can be told apart then.
        plain, expected = {key: key for key in state}, state
        fitted = fit_state(found, expected, path, model_name, wrappers=(), beside=())
    else:
        fitted = fit_state(found, expected, path, model_name, wrappers=WRAPPER_PARTS, beside=())
    with torch.no_grad():
        for key, value in state.items():
            value.copy_(fitted[plain[key]])


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file.

    Raises
    ------
    CheckpointError
        If there is no such file, it cannot be read, or holds no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a .pt, .pth or .safetensors file")
    return find_weights(read_checkpoint(path, remedy="save or download it again"), path)
