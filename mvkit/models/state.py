"""Identity of a network's weights by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

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


def weights_digest(model: nn.Module) -> str | None:
    """Return the sha256 (hex) over every parameter and buffer that a network holds now.

    Unlike a state dict this has buffers that are not saved, such as a fixed bank of filters. Shared tensors
    count as equal ones do.

    Returns
    -------
    str or None
        None if the content of a tensor cannot be read (sparse, or on the "meta" device).
    """
    sha256 = hashlib.sha256()
    # Shared tensors appear under each of their names, and are read once.
    known: dict[int, bytes] = {}
    for name, value in _tensors(model):
        if id(value) not in known:
            content = tensor_bytes(value)
            if content is None:
                return None
            known[id(value)] = hashlib.sha256(content).digest()
        sha256.update(f"{name};{value.dtype};{tuple(value.shape)};".encode())
        sha256.update(known[id(value)])
    return sha256.hexdigest()


def tensor_bytes(value: Tensor) -> memoryview | None:
    """Return the content of a tensor, C order; None if it has none that can be read."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return None
    plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    content: memoryview = plain.view(torch.uint8).numpy().data
    return content if plain.numel() else memoryview(b"")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    everything: Iterable[tuple[str, Tensor]] = model.named_parameters(remove_duplicate=False)
    yield from everything
    yield from model.named_buffers(remove_duplicate=False)
