"""Identity of a network's weights by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def state_digest(model: nn.Module) -> str:
    """Return "state:" and the sha256 over a state dict (keys, dtypes, shapes, values); "none" if empty."""
    sha256 = hashlib.sha256()
    state = model.state_dict()
    for key, value in state.items():
        # Quantised modules keep a weight and its bias as a tuple.
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Tensor):
                sha256.update(f"{key};{part.dtype};{tuple(part.shape)};".encode())
                for content in _contents(part):
                    sha256.update(content)
    return f"state:{sha256.hexdigest()}" if state else "none"


def meta_tensors(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that have no values yet (device "meta")."""
    return [name for name, value in _tensors(model) if value.is_meta]


def weights_digest(model: nn.Module) -> str | None:
    """Return the sha256 (hex) over every parameter and buffer that a network holds now.

    Unlike a state dict this has buffers that are not saved, such as a fixed bank of filters. Shared tensors
    count as equal ones do.

    Returns
    -------
    str or None
        None if the content of a tensor cannot be read (sparse, or on the "meta" device), or modules hold
        quantised weights, which are no parameters.
    """
    if is_quantised(model):
        return None
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


def _contents(value: Tensor) -> Iterator[bytes | memoryview]:
    """Yield what makes up a tensor's values: of a sparse one indices too, of a quantised one scales."""
    value = value.detach()
    parts: list[Any] = [value]
    if value.is_quantized:
        per_tensor = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = (
            [value.q_scale(), value.q_zero_point()]
            if per_tensor
            else [value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis()]
        )
        parts = [value.int_repr(), *map(torch.as_tensor, scales)]
    elif value.layout == torch.sparse_coo:
        merged = value.coalesce()
        parts = [merged.indices(), merged.values()]
    elif value.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [value.crow_indices(), value.col_indices(), value.values()]
    elif value.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [value.ccol_indices(), value.row_indices(), value.values()]
    elif value.layout != torch.strided:
        parts = [value.to_dense()]
    for part in parts:
        yield tensor_bytes(part) or b""


def is_quantised(model: nn.Module) -> bool:
    """Tell whether modules keep weights in torch's packed form, outside parameters and buffers."""
    return any(
        isinstance(value, torch.ScriptObject)
        for module in model.modules()
        # TorchScript's modules are such an object themselves.
        if not isinstance(module, torch.jit.ScriptModule)
        for value in vars(module).values()
    )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    everything: Iterable[tuple[str, Tensor]] = model.named_parameters(remove_duplicate=False)
    yield from everything
    yield from model.named_buffers(remove_duplicate=False)
