"""A digest of Python objects by what they do: code by its content, values by theirs."""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvkit.models.code_origin import (
    Origin,
    module_namespace,
    origin_of_class,
    origin_of_globals,
    own_sources,
    package_version,
    source_digests,
)
from mvkit.models.state import tensor_bytes

#: More objects than any network's code refers to: something else hangs on it, such as a trainer.
_MOST_OBJECTS = 200_000

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_WRAPPERS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType)
#: What a class has of Python's, and what says where it was read from but not what it does.
_NOT_CODE = ("__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__firstlineno__")
#: Where the walk ends: everything is in torch's and Python's versions.
_ROOTS = (object, type, nn.Module, Tensor)


class UnknownCodeError(Exception):
    """What something does cannot be told from what can be seen of it."""


class CodeWalk:
    """Hashes everything that objects refer to, in an order that does not depend on the process.

    Names of files and modules do not count, so that a moved file stays what it is.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        # Objects are kept, so that no other one gets the same id meanwhile.
        self._seen: dict[int, tuple[int, object]] = {}
        self._files: dict[Path, str] = {}
        self._packages: set[str] = set()
        self._own = False

    def digest(self) -> str:
        """Return the sha256 (hex) of all that was added.

        Raises
        ------
        OSError
            If sources of mvkit's cannot be read.
        """
        state = self._sha256.copy()
        for content in sorted(set(self._files.values())):
            state.update(f"file {content}\n".encode())
        for package in sorted(self._packages):
            state.update(f"package {package}\n".encode())
        if self._own:
            state.update(f"mvkit {own_sources()}\n".encode())
        return state.hexdigest()

    def text(self, *words: object) -> None:
        """Add words."""
        self._sha256.update(("\0".join(map(str, words)) + "\n").encode("utf-8", "surrogatepass"))

    def value(self, value: Any) -> None:
        """Add any object.

        Raises
        ------
        UnknownCodeError
            If too much hangs on it.
        OSError
            If a source file cannot be read.
        """
        if isinstance(value, _PLAIN):
            self.text(type(value).__name__, repr(value))
            return
        known = self._seen.get(id(value))
        if known is not None:
            self.text("again", known[0])
            return
        if len(self._seen) >= _MOST_OBJECTS:
            raise UnknownCodeError("too many objects hang on the network")
        self._seen[id(value)] = len(self._seen), value
        for kinds, visit in self._visits():
            if isinstance(value, kinds):
                visit(value)
                return
        self._instance(value)

    def _visits(self) -> Iterable[tuple[type | tuple[type, ...], Callable[[Any], None]]]:
        graphs = sys.modules.get("torch.fx")
        return (
            (types.FunctionType, self._function),
            (types.MethodType, lambda method: self._all("method", [method.__func__, method.__self__])),
            (types.CodeType, self._code),
            (type, self._class),
            (types.ModuleType, self._module),
            (nn.Module, self._network),
            (Tensor, self._tensor),
            (np.ndarray, self._array),
            (np.generic, lambda scalar: self.text("scalar", scalar.dtype, repr(scalar))),
            ((list, tuple), lambda items: self._all(type(items).__name__, items)),
            ((set, frozenset), self._set),
            (Mapping, self._mapping),
            ((staticmethod, classmethod), lambda method: self._all("bound", [method.__func__])),
            (property, lambda found: self._all("property", [found.fget, found.fset])),
            (functools.partial, lambda found: self._all("partial", [found.func, found.args, found.keywords])),
            (types.CellType, self._cell),
            ((types.BuiltinFunctionType, *_WRAPPERS), self._builtin),
            ((torch.dtype, torch.device, torch.layout, torch.Generator), self._named),
            (np.dtype, lambda found: self.text("dtype", found.str)),
            # What they hold is no part of any result.
            ((logging.Logger, *_LOCKS, weakref.ref), lambda found: self.text(type(found).__name__)),
            # Paths say where something lies; what a network reads from there shows in its first image only.
            (Path, lambda found: self.text("path", found.name)),
            *(((graphs.Graph, graphs.Node), self._graph) for graphs in [graphs] if graphs is not None),
        )

    def _all(self, word: str, items: Iterable[Any]) -> None:
        listed = list(items)
        self.text(word, len(listed))
        for item in listed:
            self.value(item)

    def _set(self, items: Iterable[Any]) -> None:
        listed = list(items)
        if not all(isinstance(item, _PLAIN) for item in listed):
            raise UnknownCodeError("a set of objects has no order")
        self.text("set", *sorted(f"{type(item).__name__}{item!r}" for item in listed))

    def _mapping(self, mapping: Mapping[Any, Any]) -> None:
        self.text("mapping", len(mapping))
        for key, item in mapping.items():
            self.value(key)
            self.value(item)

    def _tensor(self, tensor: Tensor) -> None:
        self.text("tensor", tensor.dtype, tuple(tensor.shape))
        content = tensor_bytes(tensor)
        if content is None:
            raise UnknownCodeError(f"the content of a {tensor.layout} tensor cannot be read")
        self._sha256.update(content)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self.text("array", array.dtype.str, array.shape)
        if array.dtype.hasobject:
            self._all("objects", array.ravel().tolist())
        else:
            self._sha256.update(np.ascontiguousarray(array).tobytes())

    def _network(self, module: nn.Module) -> None:
        """Add a network that is no child of another one, such as a helper in a list or a closure."""
        self.value(type(module))
        for name, item in sorted(vars(module).items()):
            if name not in ("training", "_compiled_call_impl"):
                self.text("attribute", name)
                self.value(item)

    def _graph(self, graph: Any) -> None:
        self.text("graph", str(graph))

    def _named(self, value: object) -> None:
        # A generator's state moves on as it is used.
        self.text(type(value).__name__, "" if isinstance(value, torch.Generator) else value)

    def _builtin(self, function: Any) -> None:
        self.text("builtin", getattr(function, "__qualname__", function.__name__))
        module = sys.modules.get(str(getattr(function, "__module__", "")))
        if module is not None:
            self._origin(origin_of_globals(vars(module)))

    def _cell(self, cell: types.CellType) -> None:
        try:
            content = cell.cell_contents
        except ValueError:
            self.text("empty cell")
            return
        self.value(content)

    def _origin(self, origin: Origin) -> bool:
        """Note where code comes from; tell whether it has to be looked into."""
        if origin.kind == "mvkit":
            self._own = True
        elif origin.kind == "package":
            known = package_version(origin.name)
            if known is None:
                return True
            self._packages.add(known)
        elif origin.file is not None and origin.file.resolve() not in self._files:
            self._files.update(source_digests(origin.file))
        return origin.kind in ("file", "nowhere")

    def _class(self, kind: type) -> None:
        self.text("class", kind.__qualname__)
        if kind in _ROOTS:
            return
        if self._origin(origin_of_class(kind)):
            for name, member in sorted(vars(kind).items()):
                if name not in _NOT_CODE:
                    self.text("member", name)
                    self.value(member)
        for base in kind.__mro__[1:]:
            self.value(base)

    def _module(self, module: types.ModuleType) -> None:
        if self._origin(origin_of_globals(vars(module))):
            # Not only its file: names in it may have been given other values since.
            for name, member in sorted(module_namespace(module).items()):
                self.text("name", name)
                self.value(member)
        else:
            self.text("module", module.__name__)

    def _function(self, function: types.FunctionType) -> None:
        self.text("function", function.__qualname__)
        if not self._origin(origin_of_globals(function.__globals__)):
            # Functions that are made by others have the same name and differ in what they enclose.
            self._all("closure", function.__closure__ or ())
            return
        self.value(function.__code__)
        self._all("defaults", [function.__defaults__, function.__kwdefaults__])
        self._all("closure", function.__closure__ or ())
        for name in sorted(_names_in(function.__code__)):
            if name in function.__globals__:
                self.text("global", name)
                self.value(function.__globals__[name])

    def _code(self, code: types.CodeType) -> None:
        # As bytecode it means something only together with the version of Python.
        self.text("code", code.co_name, sys.version_info[:2], code.co_argcount, code.co_kwonlyargcount)
        self.text(code.co_flags, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._sha256.update(code.co_code + code.co_exceptiontable)
        self._all("constants", code.co_consts)

    def _instance(self, value: object) -> None:
        self.text("object")
        self.value(type(value))
        state = getattr(value, "__dict__", None)
        slots = [
            name
            for kind in type(value).__mro__
            for name in _as_names(getattr(kind, "__slots__", ()))
            if hasattr(value, name) and not name.startswith("__")
        ]
        if (state is None and not slots) or any(map(_is_built_in, type(value).__mro__)):
            self._reduced(value)
        for name, item in sorted((state or {}).items(), key=lambda pair: str(pair[0])):
            self.text("attribute", name)
            self.value(item)
        for name in slots:
            self.text("slot", name)
            self.value(getattr(value, name))

    def _reduced(self, value: object) -> None:
        """Add what an object written in C would be pickled as."""
        graph = getattr(value, "graph", None) if isinstance(value, torch.jit.ScriptFunction) else None
        if graph is not None:
            self.text("graph", graph)
            return
        try:
            parts = value.__reduce_ex__(4)
        except TypeError as error:
            raise UnknownCodeError(f"a {type(value).__qualname__} cannot be looked into") from error
        self.value(parts if isinstance(parts, str) else list(parts[:3]))
        if not isinstance(parts, str):
            self._all("items", [list(items) for items in parts[3:5] if items is not None])


def _is_built_in(kind: type) -> bool:
    """Tell whether objects of a class hold what Python does not show (files, random generators)."""
    return kind is not object and kind.__module__ in sys.builtin_module_names


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _names_in(code: types.CodeType) -> set[str]:
    """Return the names that code, and the code inside it, looks up."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*(_names_in(constant) for constant in inner))
