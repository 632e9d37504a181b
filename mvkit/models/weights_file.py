"""The weights file: a model's state dict as safetensors, with what is needed to use it elsewhere as metadata.

::

    format                 "pt"
    mvkit_format           "mvkit-weights"; mvkit_format_version: "1"
    mvkit_version          of the mvkit that wrote it
    model, architecture    names
    weights_id             identity of the weights that were exported: sha256 of their checkpoint, ...
    source                 address of the published file, training run and digest of its recipe, or seed
    layers                 JSON: layers scored by default
    preprocessing          JSON: how images become the model's input
    citation, licence      texts; absent where nothing is known
    training_run           JSON: what a checkpoint of mvkit train says of its network; else absent
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mvkit.errors import CheckpointError
from mvkit.models.safetensors_file import read_metadata, read_safetensors

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
