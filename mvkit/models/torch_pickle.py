"""Pickles as ``torch.save`` writes them, read without running anything they name.

A class is a name, an object of it a record; only tensors and plain data are made.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.storage import TypedStorage

from mvkit.pickle_reader import INSTRUCTIONS, Machine, Name, PickleFile, Record

#: How deep, and in how many layers, the weights of a network are looked for.
_DEEPEST_LAYER, _MOST_LAYERS = 100, 10_000


def inert_pickle(path: Path) -> ModuleType:
    """Return what ``torch.load`` takes in place of the module ``pickle``, for a file."""
    source = _OpenPickle(path)

    class Unpickler(InertUnpickler):
        def __init__(self, file: IO[bytes], **_: object) -> None:
            super().__init__(source, file)

    module: Any = ModuleType("mvkit_inert_pickle")
    module.Unpickler = Unpickler
    module.load = lambda file, **_: Unpickler(file).load()
    return cast(ModuleType, module)


class _OpenPickle(PickleFile):
    """A pickle inside a file that torch has opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compression = None
        self.length = None


@dataclass(slots=True, eq=False)
class PickledObject(Record):
    """An object of a class that torch does not know, of which nothing was run.

    Attributes
    ----------
    entries
        What it holds as a mapping.
    """

    entries: dict[str, Any] = field(default_factory=dict)

    @property
    def is_module(self) -> bool:
        """Whether it is a network or a layer."""
        return isinstance(self.state, dict) and {"_parameters", "_buffers", "_modules"} <= set(self.state)


class InertUnpickler(Machine):
    """Follows a pickle whose storages torch reads; all but tensors and plain data becomes a record."""

    #: Of torch's, for each file that it reads.
    persistent_load: Callable[[tuple[Any, ...]], Any]

    most_instructions = 3_000_000

    @property
    def instructions(self) -> Mapping[bytes, tuple[str, Callable[..., None]]]:
        return {**INSTRUCTIONS, b"Q": ("", InertUnpickler.load_storage), b"b": ("", InertUnpickler.build)}

    def load(self) -> Any:
        return self.run()

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refusal("a class name that is not text")
        self.push(Name(f"{module}.{name}"))

    def load_storage(self) -> None:
        key = self.pop()
        if isinstance(key, tuple):
            # Python 2 wrote plain text this way.
            key = tuple(part.decode("latin-1") if isinstance(part, bytes) else part for part in key)
        match key:
            case ("module", cls, *_):
                # Files of before torch 1.6 hold the source of networks beside their class.
                self.push(cls)
            case ("storage", Name(label), str(), str(), int() as count, *_) if count >= 0:
                kind = vars(torch).get(label.rpartition(".")[2])
                if not label.startswith("torch.") or not label.endswith("Storage") or kind is None:
                    raise self.refusal(f"a storage of an unknown kind, {label[:80]}")
                self.push(self.persistent_load((key[0], kind, *key[2:])))
            case _:
                raise self.refusal("a persistent id that is no storage")

    def call(self, maker: Any, arguments: Any) -> None:
        label = maker.label if isinstance(maker, Name) else ""
        package, _, function = label.rpartition(".")
        if package == "torch._utils" and (tensor := _rebuild(function, arguments)) is not None:
            self.push(tensor)
        elif label in ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"):
            self.push(OrderedDict())
            if label == "collections.OrderedDict" and isinstance(arguments, tuple):
                self.fill_pairs(arguments)
        elif label in ("builtins.set", "__builtin__.set") and isinstance(arguments, tuple) and arguments:
            self.push(arguments[0])
        else:
            self.push(PickledObject(Name(label), arguments if isinstance(arguments, tuple) else ()))

    def reduce_with_keywords(self) -> None:
        self.pop()
        self.reduce()

    def extend(self, items: list[Any]) -> None:
        # Elements of lists of other classes are passed over.
        if isinstance(self.top(), list):
            super().extend(items)

    def fill(self, items: list[Any]) -> None:
        target = self.top()
        plain = [
            part
            for key, value in zip(items[::2], items[1::2], strict=False)
            if isinstance(key, str | bytes | int | float | None)
            for part in (key, value)
        ]
        if isinstance(target, PickledObject):
            self.push(target.entries)
            super().fill(plain)
            self.pop()
        elif isinstance(target, dict):
            super().fill(plain)

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, PickledObject):
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            target._metadata = state.get("_metadata")  # type: ignore[attr-defined]


def _rebuild(function: str, arguments: Any) -> Tensor | None:
    """Return the tensor that a function of torch's would make of its arguments; None if it is no tensor's."""
    match arguments:
        case (Tensor() as tensor, *_) if function.startswith("_rebuild_parameter"):
            return tensor
        case (TypedStorage() as storage, int() as offset, tuple() as size, tuple() as stride, *more):
            dtype: Any = storage.dtype
            if function == "_rebuild_tensor_v3":
                label = more[2].label if len(more) > 2 and isinstance(more[2], Name) else ""
                dtype = vars(torch).get(label.removeprefix("torch."))
            elif function not in ("_rebuild_tensor", "_rebuild_tensor_v2"):
                return None
            if isinstance(dtype, torch.dtype) and all(isinstance(one, int) for one in (*size, *stride)):
                return torch.empty(0, dtype=dtype).set_(storage._untyped_storage, offset, size, stride)
    return None


def module_state(network: PickledObject) -> dict[str, Any]:
    """Return the state dict of a pickled network, as ``state_dict()`` would."""
    tensors: dict[str, Any] = {}
    queue: deque[tuple[str, Any]] = deque([("", network)])
    for _ in range(_MOST_LAYERS):
        if not queue:
            break
        prefix, module = queue.popleft()
        is_module = isinstance(module, PickledObject) and module.is_module
        # A network that contains itself has no end.
        if not is_module or prefix.count(".") > _DEEPEST_LAYER:
            continue
        unsaved = module.state.get("_non_persistent_buffers_set")
        unsaved = unsaved if isinstance(unsaved, list) else []
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = module.state[kind] if isinstance(module.state[kind], dict) else {}
            if kind == "_modules":
                queue.extend((f"{prefix}{name}.", inner) for name, inner in entries.items())
            else:
                saved = {f"{prefix}{name}": value for name, value in entries.items() if name not in unsaved}
                tensors |= saved
    return tensors
