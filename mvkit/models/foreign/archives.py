"""Networks saved whole: TorchScript archives and exported programs."""

from __future__ import annotations

import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from mvkit.errors import CheckpointError, UsageError
from mvkit.models.foreign.user_code import UserCode

# All that torch's and zip's readers are known to raise on damaged or foreign files.
_UNREADABLE = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def load_torchscript(path: Path) -> nn.Module:
    """Load a TorchScript archive. torch offers no hooks inside: only its output can be recorded.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    """
    with _quiet():
        try:
            loaded: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable TorchScript archive ({_reason(error)})") from None
    return loaded


def load_exported(path: Path) -> tuple[nn.Module, tuple[int | None, ...]]:
    """Load an exported program with the modules that it was made of; all of them can be recorded.

    Returns
    -------
    network, shape
        The modules, and the only shape of the input that the program takes (images at a time, channels,
        height, width), with None for what may vary.

    Raises
    ------
    UsageError
        If there is no such file.
    CheckpointError
        If the file cannot be read, or does not take one batch of images.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with _quiet():
        try:
            program = torch.export.load(path)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{path}: not an exported program that this torch ({torch.__version__}) reads "
                f"({_reason(error)})\nexport it again: torch.export.save(program, FILE)"
            ) from None
        inputs = program.graph_signature.user_inputs
        shapes = [
            node.meta["val"].shape
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in inputs
        ]
        if len(shapes) != 1 or len(shapes[0]) != 4:
            raise CheckpointError(
                f"{path}: takes {len(shapes)} inputs of shapes "
                f"{[tuple(map(str, shape)) for shape in shapes]}; needed: one batch of images"
            )
        with UserCode(f"{path}: its modules cannot be restored"):
            network: nn.Module = torch.export.unflatten(program)
    return network, tuple(length if isinstance(length, int) else None for length in shapes[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back torch's warnings that TorchScript is deprecated, and its logs of what it raises anyway."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
