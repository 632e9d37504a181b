"""Weights from a file into a network from elsewhere."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.errors import CheckpointError, UsageError, printable
from mvkit.models.checkpoint import CONTAINERS, find_weights, read_checkpoint
from mvkit.models.foreign.wrappers import WRAPPER_PARTS, without_wrappers
from mvkit.models.matching import fit_state, plain_keys
from mvkit.models.state import meta_tensors

logger = logging.getLogger(__name__)

#: Counts of batches seen, which evaluation does not use and checkpoints of torch before 0.4.1 do not have.
_COUNTS = "num_batches_tracked"

#: Heads of torchvision's networks that only training uses, by their first component.
AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits", "aux_classifier")

_SHOWN = 5

#: Names in DenseNets' files from before torch 0.4, where modules could have dots in their names.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def fill_foreign(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a network's parameters and buffers from a file, whatever wrappers it was saved under.

    Old names of keys are understood where the network's own library understands them. Heads of torchvision's
    that only training uses are left aside, with a remark, if the network has none.

    Parameters
    ----------
    network
        The network; every entry of its state dict is overwritten. Entries on the device "meta" get memory.
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
    fill_with(network, read_state(path), path, model_name)


def fill_with(
    network: nn.Module, found: Mapping[str, Tensor], path: Path, model_name: str, *, quiet: bool = False
) -> None:
    """Fill a network from the state dict of :func:`read_state`; as :func:`fill_foreign`."""
    _materialise(network, model_name)
    if not quiet:
        log_heads_aside(network, found, path)
    found = _rename_old(_without_heads(network, found))
    state = network.state_dict()
    if any(not isinstance(value, Tensor) or value.is_quantized for value in state.values()):
        _fill_by_torch(network, path, model_name)
        return
    if not any(key.endswith(_COUNTS) for key in found):
        state = OrderedDict((key, value) for key, value in state.items() if not key.endswith(_COUNTS))
    plain, wrappers = without_wrappers(state), WRAPPER_PARTS
    expected = {plain[key]: value for key, value in state.items()}
    if len(expected) < len(state):
        # The network has modules of its own under a wrapper's name; only exact names can be told apart then.
        plain, expected, wrappers = {key: key for key in state}, dict(state), tuple[str, ...]()
    try:
        fitted = fit_state(found, expected, path, model_name, wrappers=wrappers, beside=())
    except CheckpointError as error:
        # Modules may know older names of their entries: torch asks them while it loads.
        if not _loads(network, plain_keys(found, expected, wrappers), found):
            raise error from None
        return
    with torch.no_grad():
        for key, value in state.items():
            value.copy_(fitted[plain[key]])


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file; it keeps torch's ``_metadata`` if the file has them.

    Raises
    ------
    CheckpointError
        If there is no such file, it cannot be read, or holds no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a .pt, .pth or .safetensors file")
    return find_weights(read_checkpoint(path, remedy="save or download it again"), path)


def refuse_meta(network: nn.Module, model_name: str) -> None:
    """Refuse a network without values.

    Raises
    ------
    UsageError
        If parameters or buffers lie on the device "meta"; some are named.
    """
    meta = meta_tensors(network)
    if meta:
        more = ", ..." if len(meta) > _SHOWN else ""
        raise UsageError(
            f"{model_name}: the network lies on the device 'meta', without values: "
            f"{', '.join(meta[:_SHOWN])}{more}\ngive its weights (--weights FILE), or make it on the CPU"
        )


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict holds neither NaN nor infinity."""
    return all(
        bool(torch.isfinite(value).all())
        for value in state.values()
        if value.is_floating_point() and value.layout == torch.strided
    )


def log_heads_aside(network: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Say which heads of torchvision's that only training uses are in a file and not in a network."""
    heads = _missing_heads(network)
    aside = [head for key in found if (head := _head_of(key, heads))]
    if aside:
        told = ", ".join(f"{head} ({aside.count(head)} entries)" for head in dict.fromkeys(aside))
        where = printable(str(path))
        logger.warning("%s: left aside %s, which the network has not and only training uses", where, told)


def _without_heads(network: nn.Module, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    heads, kept = _missing_heads(network), _like(found)
    kept.update({key: value for key, value in found.items() if not _head_of(key, heads)})
    return kept


def _missing_heads(network: nn.Module) -> list[str]:
    parts = {part for key in network.state_dict() for part in key.split(".")}
    return [head for head in AUXILIARY_HEADS if head not in parts]


def _head_of(key: str, heads: Sequence[str]) -> str | None:
    return next((head for head in heads if head in key.split(".")[:-1]), None)


def _rename_old(found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict with today's names for those of DenseNets before torch 0.4."""
    renamed = _like(found)
    for key, value in found.items():
        old = _OLD_DENSENET.fullmatch(key)
        renamed[f"{old[1]}{old[2]}" if old else key] = value
    return renamed


def raw_state(path: Path) -> Mapping[str, Any]:
    """Return the state dict in a file with entries that are no tensors, which quantised modules have.

    Raises
    ------
    CheckpointError
        As :func:`read_state`.
    """
    inner: Any = read_checkpoint(path, remedy="save or download it again")
    for container in CONTAINERS:
        if isinstance(inner, Mapping) and isinstance(inner.get(container), Mapping):
            inner = inner[container]
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"{path}: no weights inside")
    return inner


def _materialise(network: nn.Module, model_name: str) -> None:
    """Give memory to what lies on the device "meta"; what no file fills must not lie there."""
    meta = meta_tensors(network)
    if not meta:
        return
    kept = network.state_dict(keep_vars=True)
    lost = [name for name in meta if name not in kept]
    if lost:
        raise CheckpointError(
            f"{model_name}: buffers {', '.join(lost[:_SHOWN])} lie on the device 'meta', and no file of "
            "weights has them\nmake the network on the CPU (not under torch.device('meta'))"
        )
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is not None and value.is_meta:
                    # Tied weights stay tied.
                    if id(value) not in made:
                        empty = torch.zeros_like(value, device="cpu")
                        made[id(value)] = (
                            nn.Parameter(empty, requires_grad=value.requires_grad)
                            if isinstance(value, nn.Parameter)
                            else empty
                        )
                    own[name] = made[id(value)]  # type: ignore[assignment]


def _fill_by_torch(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a quantised network, whose modules pack their weights themselves."""
    try:
        network.load_state_dict(raw_state(path))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit '{model_name}' ({reason[:300]})") from error


def _loads(network: nn.Module, keys: Mapping[str, str], found: Mapping[str, Tensor]) -> bool:
    """Let torch load entries of a file (by their names in the network) and tell whether all fit."""
    state = _like(found)
    state.update({plain: found[key] for key, plain in keys.items()})
    if not all_finite(state):
        return False
    try:
        misfits = network.load_state_dict(state, strict=False)
    except Exception:  # noqa: BLE001 - what does not fit is said by mvkit's own matching
        return False
    missing = [key for key in misfits.missing_keys if not key.endswith(_COUNTS)]
    return not missing and not misfits.unexpected_keys


def _like(found: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return an empty state dict with the versions of modules that another one has."""
    state: Any = OrderedDict()
    metadata = getattr(found, "_metadata", None)
    if metadata is not None:
        state._metadata = metadata
    return state  # type: ignore[no-any-return]
