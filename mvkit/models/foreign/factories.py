"""A user's own code: the function of a module or file that makes a network, imported because it was named."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from mvkit.errors import UsageError, UserCodeError
from mvkit.models.foreign.names import ForeignName
from mvkit.models.foreign.network import seeded
from mvkit.models.foreign.user_code import UserCode
from mvkit.models.foreign.wrappers import unwrap_inside, unwrapped
from mvkit.naming import unknown_name

_Factory = Callable[[], object]


def make_network(name: ForeignName, seed: int | None) -> tuple[nn.Module, object]:
    """Import a user's code and call the function named, without arguments.

    While it is imported and called, the file's folder (of a module: the current folder) can be imported from,
    after all that is installed, so that a file named like an installed module hides nothing. Modules that a
    file brought in from its folder are forgotten afterwards: those of another file may have the same names.

    Parameters
    ----------
    name
        Of kind "file" or "module".
    seed
        Of what is drawn from torch's generator meanwhile, in a fork of it; None: 0.

    Returns
    -------
    network, declared
        The network without wrappers (``torch.compile``, ``DataParallel``), and the module that the function
        returned, whose attributes ``layers`` and ``preprocess`` may say how to use it.

    Raises
    ------
    UsageError
        If there is no such file, module or function, or the function takes arguments.
    UserCodeError
        If the code fails, or what it returns is no ``nn.Module``.
    """
    folder = name.path.resolve().parent if name.kind == "file" else Path.cwd()
    with _importable(folder, forget=name.kind == "file"):
        made = seeded(lambda: _called(name), seed)
    declared = unwrapped(made)
    return unwrap_inside(made), made if hasattr(made, "layers") or hasattr(made, "preprocess") else declared


def _called(name: ForeignName) -> nn.Module:
    module = _import_file(name) if name.kind == "file" else _import_module(name)
    factory = _find(name, module)
    with UserCode(f"{name.shown}: making the network failed"):
        made = factory()
    if not isinstance(made, nn.Module):
        raise UserCodeError(f"{name.shown}: returned a {type(made).__name__}; needed: a torch.nn.Module")
    if any(is_lazy(value) for value in [*made.parameters(), *made.buffers()]):
        raise UserCodeError(
            f"{name.shown}: the network has lazy modules, whose weights have no shape yet\n"
            "run it once on an input before returning it"
        )
    return made


def _import_file(name: ForeignName) -> ModuleType:
    path = name.path
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    # A name of its own: a file `timm.py` must not become the module `timm` of others, nor be taken for it.
    mark = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"mvkit_user_{mark}_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with UserCode(f"{path.name}: cannot be imported"):
            spec.loader.exec_module(module)
    except UserCodeError:
        del sys.modules[spec.name]
        raise
    return module


def _import_module(name: ForeignName) -> ModuleType:
    try:
        with UserCode(f"{name.place}: cannot be imported"):
            return importlib.import_module(name.place)
    except UserCodeError as error:
        cause = error.__cause__
        parts = name.place.split(".")
        parents = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if isinstance(cause, ModuleNotFoundError) and cause.name in parents:
            raise UsageError(
                f"{name.place}:{name.inside}: no module '{cause.name}', neither installed nor in the current "
                "folder\nmodels from elsewhere: torchvision:NAME, timm:NAME, package.module:FUNCTION, "
                "path/to/file.py:FUNCTION"
            ) from None
        raise


def _find(name: ForeignName, module: ModuleType) -> _Factory:
    try:
        factory: Any = reduce(getattr, name.inside.split("."), module)
    except AttributeError:
        own = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and callable(value) and value.__module__ == module.__name__
        ]
        raise unknown_name(f"function of {Path(name.place).name}", name.inside, own) from None
    if not callable(factory) or isinstance(factory, nn.Module):
        raise UsageError(f"{name.shown} is a {type(factory).__name__}, not a function that makes a network")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(
            f"{name.shown} is called without arguments, but it has a {error}\n"
            "name a function that fills them in"
        ) from None
    except ValueError:
        # Functions written in C may have no signature; calling shows what they need.
        pass
    return factory  # type: ignore[no-any-return]


@contextmanager
def _importable(folder: Path, *, forget: bool) -> Iterator[None]:
    before, path, writes = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path.append(str(folder))
    # Compiled files are told from their sources by whole seconds: too coarse for code that is being edited.
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        sys.dont_write_bytecode = writes
        for key in set(sys.modules) - before if forget else ():
            place = getattr(sys.modules[key], "__file__", None)
            if place and key.partition("_user_")[0] != "mvkit" and _lies_in(Path(place), folder):
                del sys.modules[key]


def _lies_in(file: Path, folder: Path) -> bool:
    """Tell whether a module is the user's: in the folder, but not installed in an environment inside it."""
    resolved = file.resolve()
    return resolved.is_relative_to(folder) and "site-packages" not in resolved.parts
