"""Checkpoints, read without running anything they name, and fitted to a network's names and shapes."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvkit.errors import CheckpointError
from mvkit.files import opening_as_text
from mvkit.models.base import VisionModel

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


SUFFIX = ".safetensors"

#: What to do about a file that cannot be read.
_FETCH_AGAIN = "copy or fetch it again"
_LENGTH_BYTES = 8
# The format's own bound on headers (its README, "Format"); more is refused before anything is allocated.
_LONGEST_HEADER = 100_000_000
# All that safetensors and torch's storages raise on damaged or foreign files.
_UNREADABLE = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
    OverflowError,
)
_Found = TypeVar("_Found")


def looks_like_safetensors(first_bytes: bytes) -> bool:
    """Tell by its first bytes whether a file is in this format (a possible length, then a brace)."""
    if len(first_bytes) <= _LENGTH_BYTES:
        return False
    (length,) = struct.unpack_from("<Q", first_bytes)
    return length <= _LONGEST_HEADER and first_bytes[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def read_safetensors(path: Path, *, remedy: str = _FETCH_AGAIN) -> Mapping[str, Tensor]:
    """Return the tensors of a file, on the CPU, in their own dtypes.

    Parameters
    ----------
    path
        A ``.safetensors`` file.
    remedy
        What to do about a damaged file, for messages.

    Returns
    -------
    dict
        Name -> tensor; the format keeps no order of its own.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind, or holds a dtype that torch lacks.
    """
    return _reading(path, remedy, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_metadata(path: Path, *, remedy: str = _FETCH_AGAIN) -> dict[str, str]:
    """Return the texts that a file says about itself; empty if it says nothing.

    Parameters
    ----------
    path, remedy
        As for :func:`read_safetensors`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another kind.
    """
    return _reading(path, remedy, lambda file: dict(file.metadata() or {}))


def _reading(path: Path, remedy: str, read: Callable[[Any], _Found]) -> _Found:
    try:
        with path.open("rb") as raw:
            raw.read(1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with opening_as_text(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            return read(file)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({reason[:160]})\n"
            f"the file is damaged, incomplete or of another kind; {remedy}"
        ) from None


FORMAT_NAME = "mvkit-weights"
FORMAT_VERSION = 1


def read_weights_file(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return a safetensors file as a checkpoint of torch's would be read.

    Parameters
    ----------
    path
        Any safetensors file; of one that was exported from a training run, the run's description is there
        as in the run's own checkpoints.
    remedy
        What to do about a damaged file, for messages.

    Returns
    -------
    dict
        The tensors under "model", beside the description of a training run if there is one.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or was written by a newer mvkit.
    """
    metadata = read_metadata(path, remedy=remedy)
    described: Any = {}
    if metadata.get("mvkit_format") == FORMAT_NAME:
        try:
            version = int(metadata["mvkit_format_version"])
            described = json.loads(metadata.get("training_run", "{}"))
            if not isinstance(described, dict):
                raise ValueError("training_run is no object")
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: its metadata are damaged ({error})\nexport the weights again"
            ) from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: weights file version {version}, but this mvkit reads up to {FORMAT_VERSION}\n"
                "use the version of mvkit that wrote it, or a newer one"
            )
    return {**described, "model": dict(read_safetensors(path, remedy=remedy))}


#: Where the weights lie in a checkpoint, the first one found; otherwise the checkpoint is the state dict.
CONTAINERS = ("model_state_dict", "state_dict", "model")
_FETCH_PUBLISHED_AGAIN = "if it is a published one, fetch it again: mvkit fetch checkpoints --force"
_ZIP_MAGIC = b"PK\x03\x04"
_NUMPY_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "U", "S")
# All that torch's and zip's readers are known to raise on damaged or foreign files.
_UNREADABLE_BY_TORCH = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    MemoryError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def read_weights(model: VisionModel, path: Path) -> str:
    """Fill a model's parameters and buffers from a checkpoint file.

    Parameters
    ----------
    model
        The model; every entry of its state dict is overwritten.
    path
        A file written by ``torch.save``.

    Returns
    -------
    str
        sha256 of the file, hexadecimal.

    Raises
    ------
    CheckpointError
        If the file cannot be read, names something that is not allowed, or
        does not fit the model (missing, unexpected and mis-shaped keys are named).
    """
    return fill_weights(model, read_checkpoint(path), path)


def fill_weights(model: VisionModel, checkpoint: object, path: Path) -> str:
    """Fill a model's parameters and buffers from the contents of a checkpoint file.

    As :func:`read_weights`, for a file that :func:`read_checkpoint` has read already.
    """
    state = fit_state(find_weights(checkpoint, path), model.state_dict(), path, model.name)
    model.load_state_dict(state)
    return _sha256(path)


def read_checkpoint(path: Path, *, remedy: str = _FETCH_PUBLISHED_AGAIN) -> object:
    """Return the contents of a checkpoint: tensors and plain Python data only.

    Parameters
    ----------
    path
        A file written by ``torch.save``, or a safetensors file.
    remedy
        What to do about a damaged file, for messages.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, is damaged, or names a global that is not allowed.
    """
    first = _first_bytes(path, remedy)
    if looks_like_safetensors(first) or path.suffix == SUFFIX:
        return read_weights_file(path, remedy=remedy)
    try:
        with (
            opening_as_text(path) as name,
            torch.serialization.safe_globals(_numpy_globals()),
            warnings.catch_warnings(),
        ):
            # torch warns of pickle protocols other than its own; what it cannot read it refuses anyway.
            warnings.simplefilter("ignore")
            # Mapping the file keeps the memory bank and optimiser state, which are not needed, out of memory.
            return torch.load(
                name, map_location="cpu", weights_only=True, mmap=first.startswith(_ZIP_MAGIC) or None
            )
    except _UNREADABLE_BY_TORCH as error:
        refused = _refused_global(error)
        if refused:
            raise CheckpointError(
                f"{path}: refused, it names '{refused}', which may run code when loaded\n"
                "only tensors, numpy scalars and plain data are read; use a file from a source that you trust"
            ) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({reason[:160]})\n"
            f"the file is damaged, incomplete or of another kind; {remedy}"
        ) from None


def find_weights(checkpoint: object, path: Path) -> Mapping[str, Tensor]:
    """Return the state dict inside a checkpoint.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if isinstance(checkpoint, Mapping):
        for container in CONTAINERS:
            inner = checkpoint.get(container)
            if isinstance(inner, Mapping) and _tensors(inner):
                return _tensors(inner)
        if _tensors(checkpoint):
            return _tensors(checkpoint)
        found = ", ".join(repr(str(key)) for key in list(checkpoint)[:8]) or "nothing"
    else:
        found = f"a {type(checkpoint).__name__}"
    raise CheckpointError(
        f"{path}: no weights inside; looked for {', '.join(map(repr, CONTAINERS))} or a plain state dict, "
        f"found {found}"
    )


def _tensors(mapping: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    state = OrderedDict((str(key), value) for key, value in mapping.items() if isinstance(value, Tensor))
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, Mapping):
        # Versions of modules, by which they know older names of their entries.
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


def _first_bytes(path: Path, remedy: str) -> bytes:
    try:
        with path.open("rb") as file:
            first = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not first:
        raise CheckpointError(f"{path}: the file is empty; {remedy}")
    # The length of a safetensors header can begin with these very bytes.
    if first.lstrip().startswith(b"<") and not looks_like_safetensors(first):
        raise CheckpointError(
            f"{path}: this is an HTML or XML page, not a checkpoint (an error message of the server?)\n"
            f"{remedy}"
        )
    return first


def _numpy_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what numpy's scalars, dtypes and arrays are made of, under old and new module names."""
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [np.dtype, np.ndarray]
    for value, function in ((np.float64(0), "scalar"), (np.zeros(0), "_reconstruct")):
        maker = cast(Callable[..., Any], value.__reduce__()[0])
        named += [(maker, f"{package}.multiarray.{function}") for package in ("numpy.core", "numpy._core")]
    # A dtype's pickled state is applied only if the class of that very dtype is allowed.
    return [*named, *(type(np.dtype(kind)) for kind in _NUMPY_KINDS)]


def _refused_global(error: BaseException) -> str:
    """Return the name that torch's restricted unpickler refused, or "" if the error is another one."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"function (.+?)(?: which|$)", str(error))
    return found.group(1) if found else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
