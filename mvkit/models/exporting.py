"""Export of a model's weights as safetensors, with provenance and preprocessing as metadata."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

import mvkit
from mvkit.errors import CheckpointError, UsageError, printable
from mvkit.files import replacing
from mvkit.models.base import WeightsProvenance, missing_weights, state_digest
from mvkit.models.checkpoints import FORMAT_NAME, FORMAT_VERSION, weights_crc32
from mvkit.models.external import ExternalModel, unwrap
from mvkit.models.loading import load_model
from mvkit.models.names import check_export_target
from mvkit.paths import expand


@dataclass(frozen=True)
class ExportReport:
    """A weights file that was written.

    Attributes
    ----------
    path
        The weights file.
    n_tensors
        Entries of the state dict.
    n_bytes
        Size of the file.
    metadata
        Texts in the file about its weights.
    """

    path: Path
    n_tensors: int
    n_bytes: int
    metadata: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "file": str(self.path),
            "n_tensors": self.n_tensors,
            "n_bytes": self.n_bytes,
            "metadata": dict(self.metadata),
        }


def export_weights(
    model: nn.Module | str | os.PathLike[str], target: str | os.PathLike[str], *, overwrite: bool = False
) -> ExportReport:
    """Write a model's state dict as a safetensors file.

    The file appears under its name when it is complete. The same weights give the same bytes.
    :func:`mvkit.load_model` takes it as ``weights``; one of a training run, which describes its network,
    also in place of a model's name.

    Parameters
    ----------
    model
        A model of :func:`mvkit.load_model` (or what that takes), or any ``nn.Module``.
    target
        The file, ``*.safetensors``.
    overwrite
        Replace an existing file.

    Returns
    -------
    ExportReport
        The file, its size and its metadata (see :mod:`mvkit.models.checkpoints`).

    Raises
    ------
    UsageError
        If ``target`` exists and ``overwrite`` is False, has another suffix, or the model has no weights.
    CheckpointError
        If the state dict holds what the format cannot.
    """
    target = expand(target)
    check_export_target(target, overwrite=overwrite)
    module = unwrap(model) if isinstance(model, nn.Module) else load_model(model)
    if lacking := missing_weights(module):
        raise CheckpointError(f"'{getattr(module, 'name', '')}' cannot be exported: {lacking}")
    # The names that the model's own library knows.
    tensors = _tensors(module.network if isinstance(module, ExternalModel) else module)
    metadata = describe_weights(module)
    if not tensors:
        raise UsageError(f"'{metadata['model']}' has no weights to export")
    metadata = dict(sorted({**metadata, "crc32": weights_crc32(tensors, metadata)}.items()))
    with replacing(target) as temporary:
        try:
            # Not by save_file: it writes to a file of its own name, which stays if the process is killed.
            temporary.write_bytes(save(tensors, metadata=metadata))
        except (SafetensorError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{target}: the weights cannot be written ({reason[:160]})") from error
        _sort_metadata(temporary)
        n_bytes = temporary.stat().st_size
    return ExportReport(target, len(tensors), n_bytes, metadata)


def describe_weights(model: nn.Module) -> dict[str, str]:
    """Return the metadata of a model's weights, sorted by key (see :mod:`mvkit.models.checkpoints`)."""
    provenance: Any = getattr(model, "provenance", None)
    known = provenance if isinstance(provenance, WeightsProvenance) else WeightsProvenance()
    layers: Any = getattr(model, "layers", ())
    as_dict = getattr(getattr(model, "preprocess", None), "as_dict", None)
    preprocessing = as_dict() if callable(as_dict) else {}
    listed = [str(layer) for layer in layers] if isinstance(layers, list | tuple) else []
    # Layers and preprocessing are those of the model at hand, which may have been changed since it was read.
    run = {**known.training_run, "layers": listed, "preprocessing": preprocessing}
    texts = {
        "format": "pt",
        "mvkit_format": FORMAT_NAME,
        "mvkit_format_version": str(FORMAT_VERSION),
        "mvkit_version": mvkit.__version__,
        "model": str(getattr(model, "name", type(model).__name__)),
        "architecture": known.architecture or f"{type(model).__module__}.{type(model).__qualname__}",
        "weights_id": str(getattr(model, "weights_id", None) or state_digest(model)),
        "source": known.source,
        "layers": json.dumps(listed),
        "preprocessing": json.dumps(preprocessing),
        "citation": "\n".join(known.citation),
        "licence": known.licence,
        "training_run": json.dumps(run) if known.training_run else "",
    }
    return {key: printable(texts[key]) for key in sorted(texts) if texts[key]}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with memory of its own for every entry, as the format has no aliases."""
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"'{key}' is {kind}: safetensors files hold dense tensors with values only")
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        tensors[key] = tensor
    return tensors


def _sort_metadata(path: Path) -> None:
    """Bring the metadata into the order of their keys: the library writes them in a random one."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        # The same members take as many bytes in any order; the rest of the header is blanks.
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
