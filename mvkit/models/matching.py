"""Fitting the names and shapes of a checkpoint's weights to those a model expects."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mvkit.errors import CheckpointError

_log = logging.getLogger(__name__)

#: Path component that ``DistributedDataParallel`` adds; no architecture of mvkit's has one of that name.
_WRAPPERS = ("module",)
#: First components of what objectives keep beside the network (names of the goldens' ``losses/``).
_OBJECTIVE_STATE = (
    "_embedding_func",
    "decoder",
    "head",
    "memory_bank",
    "neck",
    "prediction_mlp",
    "projection_mlp",
    "projector",
    "queue",
    "queue_ptr",
    "readout",
)
_SHOWN = 5


def fit_state(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: Path,
    model_name: str,
    *,
    wrappers: Collection[str] = _WRAPPERS,
    beside: Collection[str] = _OBJECTIVE_STATE,
) -> dict[str, Tensor]:
    """Pick the weights that a model expects from a checkpoint's.

    Names are matched by this rule: every component in ``wrappers`` is dropped;
    then, of all prefixes ending in "." (and the empty one) under which the
    checkpoint holds expected keys, the one with the most of them is taken, the
    first in the file on ties. So a network under ``backbone.`` or
    ``encoder_q.0.`` is found, and what lies under other prefixes (heads,
    momentum copies) is left aside, as is the known state of objectives beside
    the network. All other keys under the chosen prefix must be expected, and
    every expected key must be there.

    Parameters
    ----------
    weights
        The checkpoint's state dict.
    expected
        The model's state dict; only names, shapes and dtypes are used.
    path, model_name
        For messages.
    wrappers
        Path components that something around the network added when it was saved.
    beside
        First components of what was saved beside the network.

    Returns
    -------
    dict
        One entry per expected key, in that order, of the expected dtype.

    Raises
    ------
    CheckpointError
        If keys are missing, unexpected or of another shape, or values are not finite.
    """
    plain = _without_wrappers(weights, wrappers)
    prefix = _best_prefix(plain, expected)
    inside = {
        key[len(prefix) :]: value
        for key, value in plain.items()
        if key.startswith(prefix) and key[len(prefix) :].split(".", maxsplit=1)[0] not in beside
    }
    missing = [key for key in expected if key not in inside]
    unexpected = [key for key in inside if key not in expected]
    shapes = [
        f"{key} {tuple(inside[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in inside and inside[key].shape != value.shape
    ]
    problems = [
        _listing(kind, keys)
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit '{model_name}' ({len(expected)} keys expected): {'; '.join(problems)}\n"
            "is it a checkpoint of another architecture?"
        )
    if len(inside) < len(plain):
        _log.info("%s: %d keys that are not the network's left aside", path, len(plain) - len(inside))
    return check_values(inside, expected, path)


def check_values(
    inside: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return the weights that a model expects in its dtypes, with a remark if they had others in the file.

    Raises
    ------
    CheckpointError
        If values are not finite, or of a kind that cannot be converted.
    """
    converted = [key for key, value in expected.items() if inside[key].dtype != value.dtype]
    if converted:
        _log.warning(
            "%s: %d entries converted, such as '%s' from %s to %s",
            path,
            len(converted),
            converted[0],
            inside[converted[0]].dtype,
            expected[converted[0]].dtype,
        )
    return {key: _cast(key, inside[key], value, path) for key, value in expected.items()}


def plain_keys(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], wrappers: Collection[str]
) -> dict[str, str]:
    """Return the keys under the prefix that :func:`fit_state` chooses -> the same without it and wrappers."""
    plain = {key: ".".join(part for part in key.split(".") if part not in wrappers) for key in weights}
    prefix = _best_prefix(plain.values(), expected)
    return {key: short[len(prefix) :] for key, short in plain.items() if short.startswith(prefix)}


def _without_wrappers(weights: Mapping[str, Tensor], wrappers: Collection[str]) -> dict[str, Tensor]:
    return {
        ".".join(part for part in key.split(".") if part not in wrappers): value
        for key, value in weights.items()
    }


def _best_prefix(keys: Iterable[str], expected: Mapping[str, Tensor]) -> str:
    counts = {"": 0}
    for key in keys:
        for prefix, rest in _splits(key):
            if rest in expected:
                counts[prefix] = counts.get(prefix, 0) + 1
    return max(counts, key=lambda prefix: counts[prefix])


def _splits(key: str) -> Iterable[tuple[str, str]]:
    """Cut a key at every component: ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    cuts = [0, *(position + 1 for position, letter in enumerate(key) if letter == ".")]
    return ((key[:cut], key[cut:]) for cut in cuts)


def _listing(kind: str, keys: list[str]) -> str:
    more = f", ... ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{more}"


def _cast(key: str, found: Tensor, wanted: Tensor, path: Path) -> Tensor:
    values = found if found.layout == torch.strided else found.to_dense()
    if found.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise CheckpointError(f"{path}: '{key}' holds values that are not finite; the training run diverged")
    if found.is_floating_point() != wanted.is_floating_point() or found.is_complex():
        raise CheckpointError(f"{path}: '{key}' is {found.dtype}; needed: {wanted.dtype}")
    return found.detach().to(wanted.dtype)
