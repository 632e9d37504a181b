"""Checkpoints, read without running anything they name, and fitted to a network's names and shapes.

What is no tensor is passed over: torch reads files of tensors and plain data itself; of any other file a
:class:`mvkit.models.torch_pickle.InertUnpickler` follows the pickle, for which a class is a name.
"""

from __future__ import annotations

import json
import logging
import pickle
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mvkit.errors import CheckpointError, DataError, printable, suggest, wording
from mvkit.files import opening_as_text, sha256_of
from mvkit.models.base import VisionModel, guard_missing_weights, state_digest
from mvkit.models.names import SAFETENSORS, split_key
from mvkit.models.torch_pickle import PickledObject, inert_pickle, module_state

_log = logging.getLogger(__name__)

#: Format of the metadata in weights files that mvkit writes.
FORMAT_NAME = "mvkit-weights"
FORMAT_VERSION = 1

#: Where the weights lie in a checkpoint, the first that is there, also one in another (``model.state_dict``).
CONTAINERS = (
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "network",
    "module",
    "encoder",
    "backbone",
    "weights",
    "params",
    "teacher",
    "student",
    "state_dict_ema",
    "model_ema",
    "ema",
)

#: Path components that wrappers add: DataParallel, torch.compile, FSDP, activation checkpointing. No
#: architecture of mvkit's has one of these names.
WRAPPERS: tuple[str, ...] = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
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
#: First components of heads, which a file may hold for a network that has none, or lack.
_HEADS = ("classifier", "fc", "head", "head_dist", "heads", "last_linear", "linear", "logits", "n_averaged")
#: Keys that a message lists at most.
_SHOWN = 5
#: State dicts in a file that a message lists at most.
_MOST_LISTED = 12
#: Bytes of a tensor that repeats the same few values.
_LARGEST_REPEATED = 1 << 30
#: How deep, and in how many mappings, state dicts are looked for.
_DEEPEST, _MOST_MAPPINGS = 6, 10_000

#: What to do about a damaged file.
_FETCH_AGAIN = "if it is a published one, fetch it again: mvkit fetch checkpoints --force"

_ZIP_MAGIC = b"PK\x03\x04"
#: The number with which files of before torch 1.6 begin, as a pickle has it.
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

#: What to do with files of other programs.
_SAVE_STATE = "mvkit reads weights of torch: save them, torch.save(model.state_dict(), 'w.pt')"
_TENSORFLOW = f"a checkpoint of TensorFlow|{_SAVE_STATE}"
#: Last bytes of TensorFlow's tables.
_TABLE_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_UNPACK = "unpack it and name the file of weights in it"
#: First bytes of other files -> what it is|what to do.
_OTHER_KINDS = {
    b"version https://git-lfs": "a pointer of Git LFS|the file itself is not here yet: git lfs pull",
    b"/annex/objects/": "a pointer of git-annex|the file itself is not here yet: datalad get FILE",
    b"\x89HDF": f"an HDF5 file (of Keras?)|{_SAVE_STATE}",
    b"\x93NUMPY": f"a NumPy array|{_SAVE_STATE}",
    b"GGUF": f"a GGUF file|{_SAVE_STATE}",
    b"\x1f\x8b": f"compressed by gzip|{_UNPACK}",
    b"BZh": f"compressed by bzip2|{_UNPACK}",
    b"\xfd7zXZ": f"compressed by xz|{_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd|{_UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive|{_UNPACK}",
    b"Rar!": f"a RAR archive|{_UNPACK}",
    b"%PDF": "a PDF|name the file of weights",
    b"\x89PNG": "an image|name the file of weights",
}
#: Endings of names of other files.
_OTHER_NAMES = {
    ".onnx": f"a network of ONNX|{_SAVE_STATE}",
    ".pb": _TENSORFLOW,
    ".ckpt.meta": _TENSORFLOW,
    ".ckpt.index": _TENSORFLOW,
    ".tflite": _TENSORFLOW,
    ".msgpack": f"a checkpoint of Flax|{_SAVE_STATE}",
}
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
    if looks_like_safetensors(first) or path.suffix == SAFETENSORS:
        return _read_weights_file(path, remedy=remedy)
    if path.name.endswith(".index.json"):
        return _read_shards(path, remedy)
    # Mapping the file keeps the memory bank and optimiser state, which are not needed, out of memory.
    options: dict[str, Any] = {"map_location": "cpu", "mmap": first.startswith(_ZIP_MAGIC) or None}
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
            try:
                return torch.load(name, weights_only=True, **options)
            except pickle.UnpicklingError:
                # It names what torch does not allow. Archives of TorchScript do not come here.
                inert = inert_pickle(path)
                return torch.load(name, weights_only=False, pickle_module=inert, **options)  # nosec B614
    except (*_UNREADABLE, DataError) as error:
        if "explicit pickle_module" in str(error):
            raise CheckpointError(
                f"{path}: holds more than tensors, which torch passes over only if the variable "
                "TORCH_FORCE_WEIGHTS_ONLY_LOAD is not set\nunset it: mvkit runs nothing that a file names"
            ) from None
        raise _damage_error(path, "checkpoint", error, remedy) from None


def _check_archive(path: Path) -> None:
    """Compare every member of a zip archive with its CRC-32, which torch does not."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"'{damaged}' has changed since it was written")


def _first_bytes(path: Path, remedy: str) -> bytes:
    """Return the first bytes of a file, unless they or its name tell that it is of another kind."""
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in _SUFFIXES)
        advice = f"name a file in it: {', '.join(inside[:_SHOWN])}" if inside else "name a file of weights"
        raise CheckpointError(f"{path}: is a folder\n{advice}")
    try:
        with path.open("rb") as file:
            first = file.read(512)
            file.seek(max(0, path.stat().st_size - len(_TABLE_MAGIC)))
            last = file.read(len(_TABLE_MAGIC))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not first:
        raise CheckpointError(f"{path}: the file is empty; {remedy}")
    # The length of a safetensors header can begin with these very bytes.
    if looks_like_safetensors(first):
        return first
    if first.lstrip().startswith(b"<"):
        raise CheckpointError(
            f"{path}: this is an HTML or XML page, not a checkpoint (an error message of the server?)\n"
            f"{remedy}"
        )
    kind = next((kind for magic, kind in _OTHER_KINDS.items() if first.startswith(magic)), None)
    kind = kind or next((kind for ending, kind in _OTHER_NAMES.items() if path.name.endswith(ending)), None)
    if last == _TABLE_MAGIC or ".data-0000" in path.name:
        kind = _TENSORFLOW
    elif first[257:262] == b"ustar":
        kind = f"a tar archive|{_UNPACK}; one by torch before 0.2 load and save again with torch"
    elif first.startswith(_ZIP_MAGIC):
        kind = _kind_of_zip(path)
    elif first.startswith(b"\x80") and len(first) >= 64 and _TORCH_MAGIC not in first[:64]:
        kind = f"a pickle that torch.save did not write|{_SAVE_STATE}"
    if kind is not None:
        what, advice = kind.split("|")
        raise CheckpointError(f"{path}: is {what}, not a checkpoint of torch's\n{advice}")
    return first


def _kind_of_zip(path: Path) -> str | None:
    """Return what a zip archive is that torch.save did not write; None if it did, or if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return (
            "a TorchScript archive|save its weights: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'w.pt')"
        )
    if "data.pkl" in inner:
        return None
    if {"archive_format", "serialized_exported_programs"} & inner or path.suffix == ".pt2":
        return (
            "a program of torch.export|save its weights: "
            "torch.save(torch.export.load(FILE).state_dict, 'w.pt')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive (.npz)|{_SAVE_STATE}"
    if any(name.endswith(".weights.h5") for name in names):
        return f"a model of Keras|{_SAVE_STATE}"
    weights = [name for name in names if Path(name).suffix in _SUFFIXES]
    return f"a zip archive|{_UNPACK}" + (f": {', '.join(weights[:_SHOWN])}" if weights else "")


def _read_shards(path: Path, remedy: str) -> dict[str, Any]:
    """Return the weights of several files in one folder, which an index names (Hugging Face)."""
    try:
        files = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
        if not all(isinstance(file, str) and Path(file).name == file for file in files):
            raise ValueError("it names files outside its folder")
    except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _damage_error(path, "index of weights", error, remedy) from None
    tensors: dict[str, Any] = {}
    for file in sorted(files):
        tensors.update(find_weights(read_checkpoint(path.parent / file, remedy=remedy), path.parent / file))
    return {"model": tensors}


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
        except (KeyError, ValueError, RecursionError) as error:
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


def _damage_error(path: Path, kind: str, error: BaseException, remedy: str) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(
        f"{path}: not a readable {kind} ({reason[:160]})\n"
        f"the file is damaged, incomplete or of another kind; {remedy}"
    )


def find_weights(checkpoint: object, path: Path, key: str | None = None) -> Mapping[str, Tensor]:
    """Return a state dict inside a checkpoint.

    Parameters
    ----------
    checkpoint
        What :func:`read_checkpoint` returned.
    path
        The file, for messages.
    key
        Which one: keys of mappings in each other, joined by dots, and a prefix of the state dict's own names.
        None: the first of :data:`CONTAINERS` that is there, else the checkpoint itself, else the only one.

    Raises
    ------
    CheckpointError
        If there is none, none under that key, or several and none of :data:`CONTAINERS`.
    """
    everything = _state_dicts(checkpoint)
    _check_sizes(everything, path)
    kind = checkpoint.get("format") if isinstance(checkpoint, Mapping) else None
    if isinstance(kind, str) and "mvkit" in kind:
        # Beside the network a training run keeps the state of its objective.
        everything = {name: state for name, state in everything.items() if name == "model"}
    if not everything:
        raise _no_weights_error(checkpoint, path)
    if key is not None:
        inside = _state_dicts(_select(checkpoint, key))
        if not inside:
            raise CheckpointError(
                f"{path}: no weights under '{key}'{suggest(key, filter(None, everything))}\n"
                + _list_state_dicts(everything, path)
            )
        everything = inside
    where = "" if key is None else f"{key}."
    known = [name for name in everything if set(name.split(".")) <= set(CONTAINERS)]
    if known:
        chosen = min(known, key=lambda name: [CONTAINERS.index(part) for part in name.split(".")])
    else:
        chosen = "" if "" in everything else next(iter(everything))
        if chosen and len(everything) > 1:
            raise CheckpointError(
                f"{path}: holds {len(everything)} sets of weights; name one\n"
                + _list_state_dicts(everything, path, where)
            )
    weights = everything.pop(chosen)
    others = {name: state for name, state in everything.items() if 2 * len(state) >= len(weights)}
    if chosen and others:
        _log.warning(
            "%s: took the weights under '%s'; others: %s",
            printable(str(path)),
            where + chosen,
            _list_state_dicts(others, path, where),
        )
    return weights


def find_entries(checkpoint: object, path: Path, key: str | None = None) -> Mapping[str, Any]:
    """Return a state dict with entries that are no tensors, which quantised modules have.

    Parameters and errors are those of :func:`find_weights`.
    """
    inner: Any = checkpoint if key is None else _select(checkpoint, key)
    for container in CONTAINERS:
        if isinstance(inner, Mapping) and isinstance(inner.get(container), Mapping):
            inner = inner[container]
    if not isinstance(inner, Mapping):
        raise _no_weights_error(inner, path)
    return inner


def _no_weights_error(checkpoint: object, path: Path) -> CheckpointError:
    if isinstance(checkpoint, PickledObject):
        contents = f"a pickled {checkpoint.maker.label[:80]}, which is not run"
    elif isinstance(checkpoint, Mapping):
        contents = ", ".join(repr(str(key)[:80]) for key in list(checkpoint)[:8]) or "nothing"
    else:
        contents = f"a {type(checkpoint).__name__}"
    return CheckpointError(
        f"{path}: no weights inside; looked for {', '.join(map(repr, CONTAINERS[:4]))}, ... or a plain state "
        f"dict, found {contents}\nsave a state dict: torch.save(model.state_dict(), 'w.pt')"
    )


def _list_state_dicts(everything: Mapping[str, Mapping[str, Tensor]], path: Path, where: str = "") -> str:
    files = {f"{path}:{where}{name}": len(state) for name, state in everything.items() if name}
    listed = [
        wording(f"--weights {file}", f'weights="{file}"') + f" ({count} tensors)"
        for file, count in files.items()
    ]
    more = f", ... ({len(listed) - _MOST_LISTED} more)" if len(listed) > _MOST_LISTED else ""
    return ", ".join(listed[:_MOST_LISTED]) + more


def _state_dicts(checkpoint: object) -> dict[str, OrderedDict[str, Tensor]]:
    """Return keys joined by dots -> state dict, of all mappings of tensors but the state of optimisers."""
    found: dict[str, OrderedDict[str, Tensor]] = {}
    queue: deque[tuple[str, object]] = deque([("", checkpoint)])
    seen: set[int] = set()
    while queue and len(seen) < _MOST_MAPPINGS:
        name, value = queue.popleft()
        mapping = _as_mapping(value)
        if mapping is None or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = _tensors(mapping)
        # Not states of random generators, and counts.
        if any(one.ndim > 1 or (one.ndim and one.is_floating_point()) for one in tensors.values()):
            found[name] = tensors
        if name.count(".") < _DEEPEST:
            queue.extend(
                (f"{name}.{key}" if name else key, inner)
                for key, inner in mapping.items()
                if isinstance(key, str) and "optim" not in key
            )
    return found


def _check_sizes(everything: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Check that no tensor claims far more values than the file holds, by strides of 0."""
    for state in everything.values():
        for key, value in state.items():
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                continue
            n_bytes, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
            if n_bytes > max(1000 * stored, _LARGEST_REPEATED):
                raise CheckpointError(
                    f"{path}: '{key}' claims {n_bytes:,} bytes and holds {stored:,}: it repeats them\n"
                    "save it with .contiguous()"
                )


def _select(value: object, key: str) -> object:
    """Return what is under keys joined by dots, or the part of a state dict whose names begin with them."""
    mapping = _as_mapping(value) or {}
    if key in mapping:
        return mapping[key]
    for cut in (position for position, letter in enumerate(key) if letter == "."):
        if key[:cut] in mapping:
            return _select(mapping[key[:cut]], key[cut + 1 :])
    prefix = f"{key}."
    return {
        name[len(prefix) :]: entry
        for name, entry in mapping.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _as_mapping(value: object) -> Mapping[Any, Any] | None:
    """Return what a mapping or a pickled object holds; of a pickled network its state dict."""
    if isinstance(value, PickledObject):
        if value.is_module:
            return module_state(value)
        return value.entries or (value.state if isinstance(value.state, dict) else None)
    return value if isinstance(value, Mapping) else None


def _tensors(mapping: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    state = OrderedDict((str(key), value) for key, value in mapping.items() if isinstance(value, Tensor))
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, Mapping):
        # Versions of modules, by which they know older names of their entries.
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


class MisfitError(CheckpointError):
    """Names or shapes of weights are not those of the network."""


def fill_weights(model: VisionModel, checkpoint: object, path: Path, *, whole: bool = False) -> str:
    """Fill a model's parameters and buffers from the contents of a checkpoint file.

    Parameters
    ----------
    model
        The model; every entry of its state dict is overwritten. Of a head that the file lacks the entries
        become NaN, and forward passes end before it (:func:`mvkit.models.base.guard_missing_weights`).
    checkpoint
        What :func:`read_checkpoint` returned.
    path
        The file, or FILE:key.
    whole
        Whether a head may not be lacking.

    Returns
    -------
    str
        sha256 of the file, hexadecimal; of one of several state dicts in it, the digest of the state.

    Raises
    ------
    CheckpointError
        If it does not fit the model (missing, unexpected and mis-shaped keys are named).
    """
    file, key = split_key(path)
    expected = model.state_dict(keep_vars=True)
    fit = fit_state(find_weights(checkpoint, file, key), expected, path, model.name, whole=whole)
    model.load_state_dict(fit.state)
    guard_missing_weights(model, fit.missing, path)
    return sha256_of(file) if key is None else state_digest(model)


class FittedState(NamedTuple):
    """Weights for a network.

    Attributes
    ----------
    state
        One entry per expected key, in that order, of the expected dtype; NaN where the file has none.
    missing
        Keys of a head that the file lacks, or has in another shape.
    """

    state: dict[str, Tensor]
    missing: tuple[str, ...]


def fit_state(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: Path,
    model_name: str,
    *,
    wrappers: Collection[str] = WRAPPERS,
    whole: bool = False,
) -> FittedState:
    """Pick the weights that a model expects from a checkpoint's.

    Names are matched by this rule: every component in ``wrappers`` is dropped;
    then, of all prefixes ending in "." (and the empty one) under which the
    checkpoint holds expected keys, the one with the most of them is taken, the
    first in the file on ties. So a network under ``backbone.`` or
    ``encoder_q.0.`` is taken, and what lies under other prefixes (heads,
    momentum copies) is left aside, as are heads that the network has not, and the known
    state of objectives beside it. All other keys under the chosen prefix must be expected, and
    every expected key must be there, but for those of a head: less than half of the keys, the network's last
    ones or under a name that heads have.

    Parameters
    ----------
    weights
        The checkpoint's state dict.
    expected
        The model's state dict.
    path, model_name
        For messages.
    wrappers
        Path components that something around the network added when it was saved.
    whole
        Whether a head may not be lacking.

    Raises
    ------
    MisfitError
        If keys are missing, unexpected or of another shape.
    CheckpointError
        If values are not finite, of another kind, or two values are there for one key.
    """
    own = {key.partition(".")[0] for key in expected}
    beside = {*_OBJECTIVE_STATE, *_HEADS} - own
    keys = plain_keys(weights, expected, wrappers)
    _check_duplicates(keys, weights, expected, path)
    inside = {plain: weights[key] for key, plain in keys.items() if plain.partition(".")[0] not in beside}
    missing = [key for key in expected if key not in inside]
    shapes = {
        key: f"{key} {tuple(inside[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in inside and inside[key].shape != value.shape
    }
    head = [] if whole else _head_of(expected, {*missing, *shapes})
    replaced = {key.partition(".")[0] for key in head}
    unexpected = [key for key in inside if key not in expected and key.partition(".")[0] not in replaced]
    problems = [
        _list_keys(kind, keys)
        for kind, keys in (
            ("missing", [] if head else missing),
            ("unexpected", unexpected),
            ("of another shape", [] if head else list(shapes.values())),
        )
        if keys
    ]
    if problems:
        raise MisfitError(
            f"{path}: does not fit '{model_name}' ({len(expected)} keys expected): {'; '.join(problems)}\n"
            "is it a checkpoint of another architecture?"
        )
    if head:
        _log.warning(
            "%s: without %s for %s; layers that need them cannot be recorded",
            printable(str(path)),
            _list_keys("weights", [shapes.get(key, key) for key in head]),
            printable(model_name),
        )
    unused = [key for key in keys.values() if key.partition(".")[0] in {*_HEADS} - own]
    if unused:
        _log.warning("%s: left aside %s, which the network has not", printable(str(path)), ", ".join(unused))
    if len(inside) < len(weights):
        _log.info("%s: %d keys that are not the network's left aside", path, len(weights) - len(inside))
    there = check_values(inside, {key: expected[key] for key in expected if key not in head}, path)
    state = {key: there[key] if key in there else _no_value(value) for key, value in expected.items()}
    return FittedState(state, tuple(head))


def _head_of(expected: Mapping[str, Tensor], lacking: Collection[str]) -> list[str]:
    """Return the keys that a file lacks, in order, if they are those of a head; else none."""
    keys = list(expected)
    head = [key for key in keys if key in lacking]
    is_head = head == keys[len(keys) - len(head) :] or all(key.partition(".")[0] in _HEADS for key in head)
    return head if is_head and 2 * len(head) < len(keys) else []


def add_missing_head(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a state dict with NaN for entries of a head that it lacks or has in another shape, and these.

    Parameters
    ----------
    state
        Weights by the network's names.
    expected
        The network's state dict; counts of batches may be missing.
    """
    lacking = {
        key
        for key, value in expected.items()
        if (key not in state and not key.endswith("num_batches_tracked"))
        or (key in state and state[key].shape != value.shape)
    }
    head = _head_of(expected, lacking)
    replaced = {key.partition(".")[0] for key in head}
    complete = {
        key: value for key, value in state.items() if key in expected or key.partition(".")[0] not in replaced
    }
    return complete | {key: _no_value(expected[key]) for key in head}, head


def _no_value(expected: Tensor) -> Tensor:
    values = torch.zeros(expected.shape, dtype=expected.dtype)
    return values.fill_(torch.nan) if values.is_floating_point() or values.is_complex() else values


def _check_duplicates(
    keys: Mapping[str, str], weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> None:
    """Check that names which differ by wrappers only stand for equal values."""
    first: dict[str, str] = {}
    for key, plain in keys.items():
        if plain not in expected or weights[key].shape != expected[plain].shape:
            continue
        other = first.setdefault(plain, key)
        if other != key and not torch.equal(weights[other], weights[key]):
            prefix = max(other, key, key=len).removesuffix(plain).rstrip(".")
            raise CheckpointError(
                f"{path}: holds other values for '{other}' than for '{key}'\nname the ones with the prefix: "
                + wording(f"--weights {path}:{prefix}", f'weights="{path}:{prefix}"')
            )


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
    if values.is_meta:
        raise CheckpointError(f"{path}: '{key}' has no values (it was saved on the device 'meta')")
    if values.is_floating_point() and not _is_finite_or_as_built(dense, expected):
        raise CheckpointError(f"{path}: '{key}' holds values that are not finite; the training run diverged")
    if values.is_floating_point() != expected.is_floating_point() or values.is_complex():
        raise CheckpointError(f"{path}: '{key}' is {values.dtype}; needed: {expected.dtype}")
    return dense.detach().to(expected.dtype)


def _is_finite_or_as_built(values: Tensor, expected: Tensor) -> bool:
    """Tell whether values are finite, but for places where a buffer is not by design (-inf in a mask)."""
    # Floats of eight bits have no isfinite.
    numbers = values.float() if values.element_size() == 1 else values
    # If their sum is finite, so are they; it takes a tenth of the time.
    if bool(numbers.sum().isfinite()):
        return True
    finite = torch.isfinite(numbers)
    if bool(finite.all()):
        return True
    if isinstance(expected, nn.Parameter) or expected.is_meta or expected.layout != torch.strided:
        return False
    return torch.equal(finite, torch.isfinite(expected)) and torch.equal(
        values[~finite].nan_to_num(), expected[~finite].to(values.dtype).nan_to_num()
    )
