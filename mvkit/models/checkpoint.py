"""Reading checkpoints, without ever running what a file names; safetensors files, which name nothing, too.

Published checkpoints were written by torch 1.6 on several GPUs: zip or legacy
format, weights under ``model_state_dict`` or ``state_dict`` with ``module.``
prefixes, beside optimiser state, a memory bank and numpy scalars. They are
read with ``weights_only=True``; of numpy only scalars, dtypes and arrays are
allowed. Anything else a file names is refused.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mvkit.errors import CheckpointError
from mvkit.files import opening_as_text
from mvkit.models.base import VisionModel
from mvkit.models.matching import fit_state
from mvkit.models.safetensors_file import SUFFIX, looks_like_safetensors
from mvkit.models.weights_file import read_weights_file

#: Where the weights lie in a checkpoint, the first one found; otherwise the checkpoint is the state dict.
CONTAINERS = ("model_state_dict", "state_dict", "model")
_FETCH_AGAIN = "if it is a published one, fetch it again: mvkit fetch checkpoints --force"
_ZIP_MAGIC = b"PK\x03\x04"
_NUMPY_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "U", "S")
# All that torch's and zip's readers are known to raise on damaged or foreign files.
_UNREADABLE = (
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
    except _UNREADABLE as error:
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
