"""Checkpoints, read without running anything they name, and fitted to a network's names and shapes."""

from __future__ import annotations

import json
import logging
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvkit.errors import CheckpointError
from mvkit.files import opening_as_text, sha256_of
from mvkit.models.base import VisionModel

_log = logging.getLogger(__name__)

#: Format of the metadata in weights files that mvkit writes.
FORMAT_NAME = "mvkit-weights"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"

#: Where the weights lie in a checkpoint, the first that is there; otherwise the checkpoint is the state dict.
CONTAINERS = ("model_state_dict", "state_dict", "model")

#: Path component that ``DistributedDataParallel`` adds; no architecture of mvkit's has one of that name.
_WRAPPERS = ("module",)
#: First components of the state of objectives beside the network (names of the goldens' ``losses/``).
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
#: Keys that a message lists at most.
_SHOWN = 5

#: What to do about a damaged file.
_FETCH_AGAIN = "if it is a published one, fetch it again: mvkit fetch checkpoints --force"

_ZIP_MAGIC = b"PK\x03\x04"
_NUMPY_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "U", "S")
_LENGTH_BYTES = 8
# The format's own bound on headers (its README, "Format"); longer ones are not read.
_LONGEST_HEADER = 100_000_000
# All that the readers of torch, zip and safetensors are known to raise on damaged files and other kinds.
_UNREADABLE = (
    SafetensorError,
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


def read_checkpoint(path: Path, *, remedy: str = _FETCH_AGAIN) -> object:
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
        return _read_weights_file(path, remedy=remedy)
    try:
        with (
            opening_as_text(path) as name,
            torch.serialization.safe_globals(_numpy_globals()),
            warnings.catch_warnings(),
        ):
            # torch warns of pickle protocols other than its own; what it cannot read is an error anyway.
            warnings.simplefilter("ignore")
            if first.startswith(_ZIP_MAGIC):
                _check_archive(path)
            # Mapping the file keeps the memory bank and optimiser state, which are not needed, out of memory.
            return torch.load(
                name, map_location="cpu", weights_only=True, mmap=first.startswith(_ZIP_MAGIC) or None
            )
    except _UNREADABLE as error:
        if name := _forbidden_global(error):
            raise CheckpointError(
                f"{path}: a pickled object ('{name}'), which may run code when loaded; mvkit reads weights\n"
                "save those, torch.save(model.state_dict(), 'w.pt'), and give FILE.py:FUNCTION --weights w.pt"
            ) from None
        raise _damage_error(path, "checkpoint", error, remedy) from None


def _check_archive(path: Path) -> None:
    """Compare every member of a zip archive with its CRC-32, which torch does not."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"'{damaged}' has changed since it was written")


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


def looks_like_safetensors(first_bytes: bytes) -> bool:
    """Tell by its first bytes whether a file is in this format (a possible length, then a brace)."""
    if len(first_bytes) <= _LENGTH_BYTES:
        return False
    (length,) = struct.unpack_from("<Q", first_bytes)
    return length <= _LONGEST_HEADER and first_bytes[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def _read_weights_file(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return a safetensors file as a checkpoint of torch's would be read.

    The tensors are under "model", beside the description of a training run if the file was exported from one.
    """
    tensors, metadata = read_safetensors(path, remedy=remedy)
    training_run: Any = {}
    if metadata.get("mvkit_format") == FORMAT_NAME:
        if metadata.get("crc32") not in (None, weights_crc32(tensors, metadata)):
            raise _damage_error(path, "weights file", ValueError("its CRC-32 differs"), remedy)
        try:
            version = int(metadata["mvkit_format_version"])
            training_run = json.loads(metadata.get("training_run", "{}"))
            if not isinstance(training_run, dict):
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
    return {**training_run, "model": tensors}


def read_safetensors(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, on the CPU in their own dtypes, and its metadata.

    Parameters
    ----------
    path
        A ``.safetensors`` file.
    remedy
        What to do about a damaged file, for messages.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind, or holds a dtype that torch lacks.
    """
    try:
        with path.open("rb") as raw:
            raw.read(1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        with opening_as_text(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except _UNREADABLE as error:
        raise _damage_error(path, "safetensors file", error, remedy) from None


def weights_crc32(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 (hex) of all that a weights file holds; the format itself has no checksum."""
    crc = 0
    for key in sorted(tensors):
        tensor = tensors[key]
        crc = zlib.crc32(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(data, crc)
    texts = {key: text for key, text in metadata.items() if key != "crc32"}
    return f"{zlib.crc32(json.dumps(texts, sort_keys=True).encode(), crc):08x}"


def _numpy_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what numpy's scalars, dtypes and arrays are made of, under old and new module names."""
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [np.dtype, np.ndarray]
    for value, function in ((np.float64(0), "scalar"), (np.zeros(0), "_reconstruct")):
        maker = cast(Callable[..., Any], value.__reduce__()[0])
        named += [(maker, f"{package}.multiarray.{function}") for package in ("numpy.core", "numpy._core")]
    # A dtype's pickled state is applied only if the class of that very dtype is allowed.
    return [*named, *(type(np.dtype(kind)) for kind in _NUMPY_KINDS)]


def _forbidden_global(error: BaseException) -> str:
    """Return the name that torch's restricted unpickler does not allow, or "" if the error is another one."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    name = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"function (.+?)(?: which|$)", str(error))
    return name.group(1) if name else ""


def _damage_error(path: Path, kind: str, error: BaseException, remedy: str) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(
        f"{path}: not a readable {kind} ({reason[:160]})\n"
        f"the file is damaged, incomplete or of another kind; {remedy}"
    )


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
        contents = ", ".join(repr(str(key)) for key in list(checkpoint)[:8]) or "nothing"
    else:
        contents = f"a {type(checkpoint).__name__}"
    raise CheckpointError(
        f"{path}: no weights inside; looked for {', '.join(map(repr, CONTAINERS))} or a plain state dict, "
        f"found {contents}"
    )


def _tensors(mapping: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    state = OrderedDict((str(key), value) for key, value in mapping.items() if isinstance(value, Tensor))
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, Mapping):
        # Versions of modules, by which they know older names of their entries.
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


def fill_weights(model: VisionModel, checkpoint: object, path: Path) -> str:
    """Fill a model's parameters and buffers from the contents of a checkpoint file.

    Parameters
    ----------
    model
        The model; every entry of its state dict is overwritten.
    checkpoint
        What :func:`read_checkpoint` returned.
    path
        The file.

    Returns
    -------
    str
        sha256 of the file, hexadecimal.

    Raises
    ------
    CheckpointError
        If it does not fit the model (missing, unexpected and mis-shaped keys are named).
    """
    state = fit_state(find_weights(checkpoint, path), model.state_dict(), path, model.name)
    model.load_state_dict(state)
    return sha256_of(path)


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
    ``encoder_q.0.`` is taken, and what lies under other prefixes (heads,
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
    keys = plain_keys(weights, expected, wrappers)
    inside = {plain: weights[key] for key, plain in keys.items() if plain.partition(".")[0] not in beside}
    missing = [key for key in expected if key not in inside]
    unexpected = [key for key in inside if key not in expected]
    shapes = [
        f"{key} {tuple(inside[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in inside and inside[key].shape != value.shape
    ]
    problems = [
        _list_keys(kind, keys)
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit '{model_name}' ({len(expected)} keys expected): {'; '.join(problems)}\n"
            "is it a checkpoint of another architecture?"
        )
    if len(inside) < len(weights):
        _log.info("%s: %d keys that are not the network's left aside", path, len(weights) - len(inside))
    return check_values(inside, expected, path)


def check_values(
    inside: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return the weights that a model expects in its dtypes, with a warning if they had others in the file.

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
    plain = strip_parts(weights, wrappers)
    prefix = _best_prefix(plain.values(), expected)
    return {key: short[len(prefix) :] for key, short in plain.items() if short.startswith(prefix)}


def strip_parts(keys: Iterable[str], parts: Collection[str]) -> dict[str, str]:
    """Return key -> key without the path components that wrappers add; a key of nothing else stays."""
    return {key: ".".join(part for part in key.split(".") if part not in parts) or key for key in keys}


def _best_prefix(keys: Iterable[str], expected: Mapping[str, Tensor]) -> str:
    """Return the prefix ("", "a.", "a.b.") under which most expected keys are; of several the first."""
    counts = {"": 0}
    for key in keys:
        for cut in (0, *(position + 1 for position, letter in enumerate(key) if letter == ".")):
            if key[cut:] in expected:
                counts[key[:cut]] = counts.get(key[:cut], 0) + 1
    return max(counts, key=lambda prefix: counts[prefix])


def _list_keys(kind: str, keys: list[str]) -> str:
    more = f", ... ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{more}"


def _cast(key: str, values: Tensor, expected: Tensor, path: Path) -> Tensor:
    dense = values if values.layout == torch.strided else values.to_dense()
    if values.is_floating_point() and not bool(torch.isfinite(dense).all()):
        raise CheckpointError(f"{path}: '{key}' holds values that are not finite; the training run diverged")
    if values.is_floating_point() != expected.is_floating_point() or values.is_complex():
        raise CheckpointError(f"{path}: '{key}' is {values.dtype}; needed: {expected.dtype}")
    return values.detach().to(expected.dtype)
