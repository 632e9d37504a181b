"""External models: torchvision, timm, and the user's own code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import re
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mvkit.errors import (
    CheckpointError,
    FetchError,
    MissingPackageError,
    MvkitError,
    UsageError,
    UserCodeError,
    printable,
    suggest,
    unknown_name,
)
from mvkit.models.base import FINAL, VisionModel, meta_tensors, state_digest
from mvkit.models.checkpoints import (
    CONTAINERS,
    check_values,
    find_weights,
    fit_state,
    plain_keys,
    read_checkpoint,
)
from mvkit.models.preprocessing import (
    IMAGENET_224,
    ForeignPreprocessing,
    InputOptions,
    Preprocessing,
    UserCode,
    UserPreprocessing,
    as_preprocessing,
    read_preset,
    read_timm,
)
from mvkit.paths import is_offline

Kind = Literal["torchvision", "timm", "module", "file"]

_IDENTIFIER = r"[^\W\d]\w*"
_DOTTED = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_IN_FILE = re.compile(rf"(?P<place>.+\.py):(?P<inside>{_DOTTED})", re.DOTALL)
_IN_MODULE = re.compile(rf"(?P<place>{_DOTTED}):(?P<inside>{_DOTTED})")
_LIBRARY = re.compile(r"(?P<place>torchvision|timm):(?P<inside>.+)", re.DOTALL)
_EXPORTED_SUFFIX = ".pt2"


@dataclass(frozen=True)
class ForeignName:
    """A model that is not one of mvkit's.

    Attributes
    ----------
    kind
        Where it comes from.
    place
        The library, module or file.
    inside
        The model's name there, or the function that makes it.
    """

    kind: Kind
    place: str
    inside: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place).expanduser()

    @property
    def shown(self) -> str:
        """The name that results carry: as given, but of a file without its folder."""
        place = self.path.name if self.kind == "file" else self.place
        return f"{place}:{self.inside}"

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for two names of the same model."""
        place = str(self.path.resolve()) if self.kind == "file" else self.place
        return (self.kind, place, self.inside)


def parse_foreign(name: str | os.PathLike[str]) -> ForeignName | None:
    """Return what a name points to, or None if it is not that of a model from elsewhere.

    ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``, ``path/to/file.py:factory``.

    Raises
    ------
    UsageError
        If it is a Python file without the function that makes the model, or an exported program.
    """
    text = os.fspath(name)
    library = _LIBRARY.fullmatch(text)
    if library:
        return ForeignName("timm" if library["place"] == "timm" else "torchvision", **library.groupdict())
    if text.endswith(".py"):
        raise UsageError(f"{text}: say which function of the file makes the model: {text}:FUNCTION")
    in_file = _IN_FILE.fullmatch(text)
    if in_file:
        return ForeignName("file", **in_file.groupdict())
    if text.endswith(_EXPORTED_SUFFIX):
        raise UsageError(
            f"{text}: mvkit does not open exported programs itself\nname a function of your own that does, "
            "FILE.py:FUNCTION: def FUNCTION(): return torch.export.unflatten(torch.export.load(...))"
        )
    in_module = _IN_MODULE.fullmatch(text)
    return ForeignName("module", **in_module.groupdict()) if in_module else None


#: Path components that wrappers add.
WRAPPER_PARTS: tuple[str, ...] = ("_orig_mod", "module")

_COMPILED = "_orig_mod"
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def wrapped_part(module: nn.Module) -> str | None:
    """Return under which name a wrapper keeps the network it wraps; None if it is no wrapper."""
    if isinstance(module, _PARALLEL):
        return "module"
    # torch's class for compiled networks lies in torch._dynamo, whose import takes seconds.
    return _COMPILED if type(module).__name__ == "OptimizedModule" and _COMPILED in module._modules else None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers, however many there are."""
    while (part := wrapped_part(model)) is not None:
        model = cast(nn.Module, model._modules[part])
    return model


def unwrap_inside(model: nn.Module) -> nn.Module:
    """Return the network without wrappers, also those around modules inside it, which are replaced in place.

    ``module.compile()`` is undone too: hooks on modules inside compiled code may be skipped.
    """
    plain = unwrapped(model)
    for module in list(plain.modules()):
        module._compiled_call_impl = None
        for name, child in list(module._modules.items()):
            if child is not None and wrapped_part(child) is not None:
                module._modules[name] = unwrapped(child)
    return plain


def without_wrappers(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> key without the path components that wrappers add."""
    return {
        key: ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS) or key for key in keys
    }


_INNER = "network"


class ForeignModel(VisionModel):
    """A network from elsewhere; layers have the paths of its own modules.

    Parameters
    ----------
    network
        The network, without wrappers.
    name
        Name that results carry.
    layers
        Layers that it declares to be scored, or none.
    preprocess
        How images become its input.

    Attributes
    ----------
    network
        The network itself.
    """

    # Its modules may run any number of times in one pass.
    layers_run_once: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        name: str,
        layers: tuple[str, ...],
        preprocess: Preprocessing | UserPreprocessing,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.layers = layers
        if isinstance(network, VisionModel):
            self.published_layers = network.published_layers
        self.preprocess = cast(Preprocessing, preprocess)
        self.weights_id = state_digest(network)

    def forward(self, images: Tensor) -> Any:
        """Run the network; what it raises becomes an error that names file and line."""
        shape = " x ".join(map(str, images.shape))
        with UserCode(
            f"{self.name}: the forward pass of an input {shape} failed",
            "if it takes images of another size, say --input-size PX (in Python input_size=)",
        ):
            return self.network(images)

    def tap_points(self) -> dict[str, str]:
        """Return layer name -> module path; names are paths inside the network."""
        prefix = f"{_INNER}."
        if isinstance(self.network, VisionModel):
            return {name: f"{prefix}{path}".rstrip(".") for name, path in self.network.tap_points().items()}
        own = {path.removeprefix(prefix): path for path in self.module_paths() if path.startswith(prefix)}
        # Transforms of pictures are no part of the forward pass, even where they are modules.
        inner = {name: path for name, path in own.items() if not _is_preprocess(name)}
        return inner if FINAL in inner else {**inner, FINAL: ""}


def _is_preprocess(name: str) -> bool:
    return name.partition(".")[0] == "preprocess"


def seeded(make: Callable[[], nn.Module], seed: int | None) -> nn.Module:
    """Make a network with random weights drawn from a seed (None: 0); torch's generator stays as it was."""
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        return make()


logger = logging.getLogger(__name__)

#: Counts of batches seen, which evaluation does not use and checkpoints of torch before 0.4.1 do not have.
_COUNTS = "num_batches_tracked"

#: Heads of torchvision's networks that only training uses, by their first component.
AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits", "aux_classifier")

_SHOWN = 5

#: Names in DenseNets' files from before torch 0.4, where modules could have dots in their names.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def fill_foreign(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a network's parameters and buffers from a file, whatever wrappers it was saved under.

    Old names of keys are understood where the network's own library understands them. Heads of torchvision's
    that only training uses are left aside, with a remark, if the network has none.

    Parameters
    ----------
    network
        The network; every entry of its state dict is overwritten. Entries on the device "meta" get memory.
    path
        ``.safetensors``, or a file written by ``torch.save``, which is read without running what it names.
    model_name
        For messages.

    Raises
    ------
    CheckpointError
        If the file is missing, cannot be read or does not fit (missing, unexpected and mis-shaped keys are
        named).
    """
    fill_with(network, read_state(path), path, model_name)


def fill_with(
    network: nn.Module, found: Mapping[str, Tensor], path: Path, model_name: str, *, quiet: bool = False
) -> None:
    """Fill a network from the state dict of :func:`read_state`; as :func:`fill_foreign`."""
    _materialise(network, model_name)
    if not quiet:
        log_heads_aside(network, found, path)
    found = _rename_old(_without_heads(network, found))
    state = network.state_dict()
    if any(not isinstance(value, Tensor) or value.is_quantized for value in state.values()):
        _fill_by_torch(network, path, model_name)
        return
    if not any(key.endswith(_COUNTS) for key in found):
        state = OrderedDict((key, value) for key, value in state.items() if not key.endswith(_COUNTS))
    plain, wrappers = without_wrappers(state), WRAPPER_PARTS
    expected = {plain[key]: value for key, value in state.items()}
    if len(expected) < len(state):
        # The network has modules of its own under a wrapper's name; only exact names can be told apart then.
        plain, expected, wrappers = {key: key for key in state}, dict(state), tuple[str, ...]()
    try:
        fitted = fit_state(found, expected, path, model_name, wrappers=wrappers, beside=())
    except CheckpointError as error:
        # Modules may know older names of their entries: torch asks them while it loads.
        if not _loads(network, plain_keys(found, expected, wrappers), found):
            raise error from None
        return
    with torch.no_grad():
        for key, value in state.items():
            value.copy_(fitted[plain[key]])


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file; it keeps torch's ``_metadata`` if the file has them.

    Raises
    ------
    CheckpointError
        If there is no such file, it cannot be read, or holds no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a .pt, .pth or .safetensors file")
    return find_weights(read_checkpoint(path, remedy="save or download it again"), path)


def refuse_meta(network: nn.Module, model_name: str) -> None:
    """Refuse a network without values.

    Raises
    ------
    UsageError
        If parameters or buffers lie on the device "meta"; some are named.
    """
    meta = meta_tensors(network)
    if meta:
        more = ", ..." if len(meta) > _SHOWN else ""
        raise UsageError(
            f"{model_name}: the network lies on the device 'meta', without values: "
            f"{', '.join(meta[:_SHOWN])}{more}\ngive its weights (--weights FILE), or make it on the CPU"
        )


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict holds neither NaN nor infinity."""
    return all(
        bool(torch.isfinite(value).all())
        for value in state.values()
        if value.is_floating_point() and value.layout == torch.strided
    )


def log_heads_aside(network: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Say which heads of torchvision's that only training uses are in a file and not in a network."""
    heads = _missing_heads(network)
    aside = [head for key in found if (head := _head_of(key, heads))]
    if aside:
        told = ", ".join(f"{head} ({aside.count(head)} entries)" for head in dict.fromkeys(aside))
        where = printable(str(path))
        logger.warning("%s: left aside %s, which the network has not and only training uses", where, told)


def _without_heads(network: nn.Module, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    heads, kept = _missing_heads(network), _like(found)
    kept.update({key: value for key, value in found.items() if not _head_of(key, heads)})
    return kept


def _missing_heads(network: nn.Module) -> list[str]:
    parts = {part for key in network.state_dict() for part in key.split(".")}
    return [head for head in AUXILIARY_HEADS if head not in parts]


def _head_of(key: str, heads: Sequence[str]) -> str | None:
    return next((head for head in heads if head in key.split(".")[:-1]), None)


def _rename_old(found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict with today's names for those of DenseNets before torch 0.4."""
    renamed = _like(found)
    for key, value in found.items():
        old = _OLD_DENSENET.fullmatch(key)
        renamed[f"{old[1]}{old[2]}" if old else key] = value
    return renamed


def raw_state(path: Path) -> Mapping[str, Any]:
    """Return the state dict in a file with entries that are no tensors, which quantised modules have.

    Raises
    ------
    CheckpointError
        As :func:`read_state`.
    """
    inner: Any = read_checkpoint(path, remedy="save or download it again")
    for container in CONTAINERS:
        if isinstance(inner, Mapping) and isinstance(inner.get(container), Mapping):
            inner = inner[container]
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"{path}: no weights inside")
    return inner


def _materialise(network: nn.Module, model_name: str) -> None:
    """Give memory to what lies on the device "meta"; what no file fills must not lie there."""
    meta = meta_tensors(network)
    if not meta:
        return
    kept = network.state_dict(keep_vars=True)
    lost = [name for name in meta if name not in kept]
    if lost:
        raise CheckpointError(
            f"{model_name}: buffers {', '.join(lost[:_SHOWN])} lie on the device 'meta', and no file of "
            "weights has them\nmake the network on the CPU (not under torch.device('meta'))"
        )
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is not None and value.is_meta:
                    # Tied weights stay tied.
                    if id(value) not in made:
                        empty = torch.zeros_like(value, device="cpu")
                        made[id(value)] = (
                            nn.Parameter(empty, requires_grad=value.requires_grad)
                            if isinstance(value, nn.Parameter)
                            else empty
                        )
                    own[name] = made[id(value)]  # type: ignore[assignment]


def _fill_by_torch(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a quantised network, whose modules pack their weights themselves."""
    try:
        network.load_state_dict(raw_state(path))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit '{model_name}' ({reason[:300]})") from error


def _loads(network: nn.Module, keys: Mapping[str, str], found: Mapping[str, Tensor]) -> bool:
    """Let torch load entries of a file (by their names in the network) and tell whether all fit."""
    state = _like(found)
    state.update({plain: found[key] for key, plain in keys.items()})
    if not all_finite(state):
        return False
    try:
        misfits = network.load_state_dict(state, strict=False)
    except Exception:  # noqa: BLE001 - what does not fit is said by mvkit's own matching
        return False
    missing = [key for key in misfits.missing_keys if not key.endswith(_COUNTS)]
    return not missing and not misfits.unexpected_keys


def _like(found: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return an empty state dict with the versions of modules that another one has."""
    state: Any = OrderedDict()
    metadata = getattr(found, "_metadata", None)
    if metadata is not None:
        state._metadata = metadata
    return state  # type: ignore[no-any-return]


#: What asks for the library's own choice of pretrained weights.
_PRETRAINED = ("DEFAULT", "pretrained")

#: Made network, and how images become its input.
Made = tuple[nn.Module, Preprocessing | UserPreprocessing]

#: The settings of a network whose weights are of no entry: ``--weights none=FILE``.
_NO_ENTRY = "none"

#: One at a time: an entry of weights gives the state of a file while a network is built.
_BUILDING = threading.Lock()

#: Plain attributes of modules that say nothing of what evaluation computes.
_NOT_SETTINGS = frozenset({"training", "init_weights", "aux_logits", "dropout", "dropout_p"})


@dataclass(frozen=True)
class FileWeights:
    """Weights of a file for a network of a library.

    Attributes
    ----------
    path
        The file.
    entry
        The entry of torchvision's weights whose settings hold; "none": those of a new network; None: that
        which the file is of.
    """

    path: Path
    entry: str | None = None


def build_torchvision(name: str, weights: str | FileWeights, seed: int | None) -> Made:
    """Build a network of torchvision, with every field of the weights' entry.

    A file is built as the library builds its entry of weights: with the same arguments (``transform_input``,
    ``quantize``), names of keys and transforms. It is known by the published name, or by its content, whose
    sha256 begins as the name says. Of other files the entries that they fit are compared: where these declare
    different things, one must be named.

    Parameters
    ----------
    name
        As ``torchvision.models.list_models()`` gives it.
    weights
        "random"; the name of an entry of the model's weights (``DEFAULT``, ``IMAGENET1K_V1``); or a file.
    seed
        Of random weights.

    Raises
    ------
    UsageError
        If the model or its weights are unknown, a file fits entries that declare different things, or the
        network takes no pictures.
    CheckpointError
        If a file cannot be read or does not fit.
    FetchError
        If pretrained weights are not on this machine and cannot be downloaded.
    """
    from torchvision import models

    if name not in models.list_models():
        raise UsageError(f"torchvision has no model '{name}'{suggest(name, models.list_models())}")
    model = _TorchvisionModel(name)
    if isinstance(weights, FileWeights):
        return model.of_file(weights)
    if weights == "random":
        network = model.bare(seed)
        return network, model.input_of_new(network)
    entry = model.entry(weights)
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    advice = f"download {entry.url} elsewhere and give --weights FILE, or --weights random"
    with _downloading(f"torchvision:{name}", advice, is_here=place.is_file()):
        return model.build(entry), model.input_of(entry)


class _TorchvisionModel:
    """A model of torchvision's: its builder and the entries of its weights."""

    def __init__(self, name: str) -> None:
        from torchvision import models

        self.name = name
        self.shown = f"torchvision:{name}"
        self._builder: Callable[..., nn.Module] = models.get_model_builder(name)
        self._parameters = inspect.signature(self._builder).parameters
        choices: Any = models.get_model_weights(name)
        self._default: Any = getattr(choices, "DEFAULT", None)
        own = list(choices)
        # Networks made for quantisation take the weights of the plain ones, too.
        plain = [row.meta["unquantized"] for row in own if "unquantized" in row.meta]
        everything = [*own, *(row for row in plain if row is not None)]
        #: The library's own choice first, each once.
        self.entries: list[Any] = list(dict.fromkeys(filter(None, [self._default, *everything])))

    def entry(self, name: str) -> Any:
        """Return the entry of that name, with or without that of its class."""
        class_name, _, short = name.rpartition(".")
        if short == "DEFAULT" and self._default is not None:
            return self._default
        for row in self.entries:
            if row.name == short and class_name in ("", type(row).__name__):
                return row
        valid = ["random", *(["DEFAULT"] if self._default else []), *(row.name for row in self.entries)]
        raise UsageError(
            f"{self.shown} has no weights '{name}'{suggest(name, valid)}\n"
            f"valid: {', '.join(dict.fromkeys(valid))}, or a file (FILE, ENTRY=FILE)"
        )

    def bare(self, seed: int | None = None) -> nn.Module:
        """Build it without weights."""
        # Detectors take a pretrained backbone, and so the network, unless told not to.
        options = {"weights_backbone": None} if "weights_backbone" in self._parameters else {}
        with _quiet():
            return seeded(lambda: self._builder(weights=None, **options), seed)

    def build(self, entry: Any, state: Mapping[str, Any] | None = None) -> nn.Module:
        """Build it as the library does for an entry of weights; with a state in place of the download."""
        options = {"quantize": True} if "unquantized" in entry.meta else {}
        with _quiet(), _state_for(entry, state):
            return seeded(lambda: self._builder(weights=entry, **options), None)

    def input_of(self, entry: Any) -> Preprocessing | UserPreprocessing:
        """Return what an entry declares of its input.

        Raises
        ------
        UsageError
            If it is none that can be made of pictures.
        """
        steps = entry.transforms()
        preset = read_preset(steps)
        if preset is not None:
            return preset
        kind = type(steps).__name__
        if kind in ("VideoClassification", "OpticalFlow"):
            what = "clips of video" if kind == "VideoClassification" else "pairs of images"
            raise UsageError(
                f"{self.shown} takes {what} (its weights declare {kind}), not pictures\n"
                "wrap it in a function of your own that does, with .preprocess: FILE.py:FUNCTION"
            )
        return UserPreprocessing(steps, f"{self.shown} ({entry.name})")

    def input_of_new(self, network: nn.Module) -> Preprocessing | UserPreprocessing:
        """Return what the first entry declares whose images have the size that the network takes."""
        side = getattr(network, "image_size", None)
        if not self.entries:
            return IMAGENET_224
        declared = [self.input_of(entry) for entry in self.entries]
        fitting = [found for found in declared if getattr(found, "crop_px", side) == side]
        if not isinstance(side, int) or not isinstance(declared[0], Preprocessing):
            return declared[0]
        if fitting:
            return fitting[0]
        chosen = InputOptions(side).applied_to(declared[0])
        logger.warning("%s: no weights declare images of %d px; they are resized to it", self.shown, side)
        return chosen

    def of_file(self, weights: FileWeights) -> Made:
        """Build it with the weights of a file."""
        path = weights.path
        found = read_state(path)
        if weights.entry == _NO_ENTRY:
            network = self.bare()
            self._fill_bare(network, found, path)
            return network, self.input_of_new(network)
        if weights.entry is not None:
            return self._of_entry(self.entry(weights.entry), found, path, is_published=False)
        published = next((row for row in self.entries if _is_published_as(row.url, path)), None)
        if published is not None:
            return self._of_entry(published, found, path, is_published=True)
        return self._of_unknown(found, path)

    def _of_entry(self, entry: Any, found: Mapping[str, Tensor], path: Path, *, is_published: bool) -> Made:
        declared, state = self.input_of(entry), self._named_as_here(found, path, entry)
        try:
            network = self.build(entry, state)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: does not fit '{self.shown}' as {entry.name} ({reason[:300]})\n"
                "is it a checkpoint of another architecture?"
            ) from error
        # Published ones may hold NaN in layers that nobody uses (VGG16's features).
        if not is_published:
            filled = network.state_dict()
            check_values(state, {key: filled[key] for key in filled if _is_plain(state.get(key))}, path)
        return network, declared

    def _of_unknown(self, found: Mapping[str, Tensor], path: Path) -> Made:
        """Build it for a file that is of no known entry, if all entries that it fits say the same."""
        fitting: dict[str, tuple[_Settings, Preprocessing | UserPreprocessing]] = {}
        for entry in self.entries:
            network = self._try_entry(entry, found, path)
            if network is not None:
                fitting[entry.name] = _settings(network), self.input_of(entry)
        bare = self.bare()
        try:
            self._fill_bare(bare, found, path, quiet=True)
        except CheckpointError:
            if not fitting:
                raise
        else:
            fitting[_NO_ENTRY] = _settings(bare), self.input_of_new(bare)
        first, *others = fitting
        different = [name for name in others if fitting[name] != fitting[first]]
        if different:
            alike = [
                name
                for index, name in enumerate(fitting)
                if fitting[name] not in [fitting[earlier] for earlier in list(fitting)[:index]]
            ]
            common = set.intersection(*(set(fitting[name][0]) for name in alike))
            choices = [
                f"--weights {name}={path} ({_tell(fitting[name][0], common, fitting[name][1])})"
                for name in alike
            ]
            raise UsageError(
                f"{path}: neither its name nor its content says of which weights of {self.shown} it is, "
                f"and they differ\nsay it: {'; '.join(choices)}"
            )
        logger.warning(
            "%s: not one of torchvision's files; built, and images prepared (%s), as for %s of %s",
            printable(str(path)),
            _tell_input(fitting[first][1]),
            "new weights" if first == _NO_ENTRY else first,
            self.shown,
        )
        if first == _NO_ENTRY:
            log_heads_aside(bare, found, path)
            return bare, fitting[first][1]
        # Their values were looked at when the bare network was filled.
        return self._of_entry(self.entry(first), found, path, is_published=_NO_ENTRY in fitting)

    def _try_entry(self, entry: Any, found: Mapping[str, Tensor], path: Path) -> nn.Module | None:
        """Build it for an entry with the state of a file, on "meta" if possible; None if it does not fit."""
        state = self._named_as_here(found, path, entry)
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    return self.build(entry, state)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, it does not fit
                if "Error(s) in loading state_dict" in str(error):
                    return None
        return None

    def _named_as_here(self, found: Mapping[str, Tensor], path: Path, entry: Any) -> Mapping[str, Any]:
        """Return a file's state without wrappers' names, and with the heads that only training uses."""
        if "unquantized" in entry.meta:
            # Entries that are no tensors count, too.
            return raw_state(path)
        expected = self._own_state()
        keys = plain_keys(found, expected, WRAPPER_PARTS)
        state: Any = _copy_state(found)
        state.clear()
        state.update({plain: found[key] for key, plain in keys.items()})
        heads = {key.partition(".")[0] for key in state}
        for key, value in expected.items():
            head = key.partition(".")[0]
            if head in AUXILIARY_HEADS and head not in heads:
                state[key] = value
        return state  # type: ignore[no-any-return]

    def _own_state(self) -> Mapping[str, Tensor]:
        return {key: value for key, value in self.bare().state_dict().items() if isinstance(value, Tensor)}

    def _fill_bare(
        self, network: nn.Module, found: Mapping[str, Tensor], path: Path, *, quiet: bool = False
    ) -> None:
        """Fill a network without an entry's settings; heads that the file lacks are taken off."""
        for head in AUXILIARY_HEADS:
            if getattr(network, head, None) is not None and not any(f"{head}." in key for key in found):
                setattr(network, head, None)
        fill_with(network, found, path, self.shown, quiet=quiet)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_quantized


#: What evaluation computes besides weights: (module, attribute, value).
_Settings = frozenset[tuple[str, str, str]]


def _settings(network: nn.Module) -> _Settings:
    """Return the kinds and plain attributes of a network's modules, without heads that only training uses."""
    found = set()
    for name, module in network.named_modules():
        if name.partition(".")[0] in AUXILIARY_HEADS:
            continue
        found.add((name, "kind", type(module).__qualname__))
        found |= {
            (name, key, repr(value))
            for key, value in vars(module).items()
            if not key.startswith("_")
            and key not in _NOT_SETTINGS
            and isinstance(value, bool | int | float | str | tuple | list | type(None))
            and key not in AUXILIARY_HEADS
        }
    return frozenset(found)


def _tell(settings: _Settings, common: set[Any], declared: Preprocessing | UserPreprocessing) -> str:
    """Say what is special about settings, and how images are prepared."""
    own = sorted(settings - common)
    told = [f"{f'{name}.' if name else ''}{key}={value}" for name, key, value in own]
    return "; ".join([*told[:2], _tell_input(declared)])


def _tell_input(declared: Preprocessing | UserPreprocessing) -> str:
    if isinstance(declared, UserPreprocessing):
        return str(declared.as_dict().get("steps", declared.as_dict()["function"]))
    sizes = [f"resize {declared.resize_px}" if declared.resize_px else "", ""]
    if declared.crop_px:
        sizes[1] = f"crop {declared.crop_px}"
    return ", ".join([*filter(None, sizes), getattr(declared, "interpolation", "bilinear")])


def _is_published_as(url: str, path: Path) -> bool:
    """Tell whether a file is the published one, by its sha256: digits in the name, or of the content."""
    stem = Path(url).stem
    digits = re.search(r"[-_]([0-9a-f]{8,64})$", stem)
    if path.name == Path(url).name or digits is None:
        return path.name == Path(url).name
    return digits[1] in re.split(r"[^0-9a-z]+", path.stem.lower()) or _sha256(path).startswith(digits[1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _state_for(entry: Any, state: Mapping[str, Any] | None) -> Iterator[None]:
    """Let an entry of torchvision's weights give a state dict that is at hand; None: let it download."""
    if state is None:
        yield
        return
    with _BUILDING:
        entry.get_state_dict = lambda *_arguments, **_options: _copy_state(state)
        try:
            yield
        finally:
            del entry.get_state_dict


def _copy_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict that a library may change while it loads it."""
    copied: Any = OrderedDict(state)
    if hasattr(state, "_metadata"):
        copied._metadata = state._metadata
    return copied  # type: ignore[no-any-return]


def build_timm(name: str, weights: str | FileWeights, seed: int | None) -> Made:
    """Build a network of timm, with every field of its data configuration.

    Parameters
    ----------
    name
        As ``timm.list_models()`` gives it, with or without the tag of pretrained weights.
    weights
        "random"; ``DEFAULT`` for the pretrained weights that the name stands for; or a file. A file with the
        published name of other weights of this network is prepared for as these.
    seed
        Of random weights.

    Raises
    ------
    MissingPackageError
        If timm is not installed.
    UsageError
        If the model or its weights are unknown, or its data configuration has what cannot be used.
    CheckpointError
        If a file cannot be read or does not fit.
    FetchError
        If pretrained weights cannot be downloaded.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            f"timm:{name} needs timm, which is not installed ({error}): pip install 'mvkit[timm]'"
        ) from None
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'{suggest(name, timm.list_models())}")
    if isinstance(weights, FileWeights):
        if weights.entry is not None:
            raise UsageError(
                f"timm:{name} has no entry '{weights.entry}': give --weights {weights.path}, and the tag of "
                f"the weights that it is like in the name: timm:{name.partition('.')[0]}.TAG"
            )
        network = _timm_of_file(name, weights.path, seed)
    elif weights == "random":
        with _quiet():
            network = seeded(lambda: timm.create_model(name, pretrained=False), seed)
    elif weights in _PRETRAINED:
        advice = "download them elsewhere and give --weights FILE, or --weights random"
        with _downloading(f"timm:{name}", advice, is_here=False), _quiet():
            network = timm.create_model(name, pretrained=True)
    else:
        raise UsageError(f"timm:{name} has no weights '{weights}'; valid: random, DEFAULT, or a file")
    return network, timm_input(network, f"timm:{name}")


def timm_input(network: nn.Module, shown: str) -> ForeignPreprocessing:
    """Return the preprocessing of a network of timm's, which carries it as ``pretrained_cfg``.

    Raises
    ------
    UsageError
        If it has what cannot be used.
    """
    resolve: Any = importlib.import_module("timm.data").resolve_model_data_config
    config = resolve(network)
    first = getattr(network, "pretrained_cfg", {}).get("first_conv")
    layer = dict(network.named_modules()).get(first) if isinstance(first, str) else None
    channels = getattr(layer, "in_channels", config["input_size"][0])
    # Networks that fold pixels into channels first take a multiple.
    if channels % config["input_size"][0]:
        raise UsageError(
            f"{shown}: timm's data configuration has input_size {tuple(config['input_size'])}, but the layer "
            f"'{first}' takes {channels} channel(s)\nmake the network in a function of your own with "
            ".preprocess (FILE.py:FUNCTION)"
        )
    return read_timm(config, shown)


def is_timm_network(network: nn.Module) -> bool:
    """Tell whether a network carries timm's data configuration."""
    config = getattr(network, "pretrained_cfg", None)
    return isinstance(config, Mapping) and {"input_size", "mean", "std"} <= set(config)


def _timm_of_file(name: str, path: Path, seed: int | None) -> nn.Module:
    """Build a network of timm's with the weights of a file, whose keys timm itself renames where needed."""
    import timm

    found = read_state(path)
    tagged = _tag_of_file(name, path)

    def make(**options: Any) -> nn.Module:
        with _quiet():
            return seeded(lambda: timm.create_model(tagged, **options), seed)

    network = make(pretrained=False)
    try:
        fill_with(network, found, path, f"timm:{name}")
    except CheckpointError as error:
        if not all_finite(found):
            raise
        try:
            return make(pretrained=True, pretrained_cfg_overlay={"state_dict": dict(found), "source": ""})
        except Exception:  # noqa: BLE001 - what does not fit is said by mvkit's own matching
            raise error from None
    return network


def _tag_of_file(name: str, path: Path) -> str:
    """Return a name of timm's with the tag that a file is published under, if the name leaves it open."""
    import timm

    if "." in name:
        return name
    get_cfg: Any = importlib.import_module("timm.models").get_pretrained_cfg
    tags = [full for full in timm.list_pretrained(f"{name}.*") if full.partition(".")[0] == name]
    for full in tags:
        url = str(getattr(get_cfg(full), "url", "") or "")
        if url and Path(url).name == path.name:
            return full
    if len(tags) > 1:
        default: Any = get_cfg(name)
        logger.warning(
            "%s: images are prepared as for timm's %s.%s; of other weights say the tag: timm:%s.TAG",
            printable(str(path)),
            name,
            getattr(default, "tag", "") or "default",
            name,
        )
    return name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings of libraries about their own defaults and future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _downloading(model: str, advice: str, *, is_here: bool) -> Iterator[None]:
    if is_offline() and not is_here:
        raise FetchError(
            f"{model}: pretrained weights would have to be downloaded, but MVKIT_OFFLINE is set\n{advice}"
        )
    try:
        yield
    except MvkitError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FetchError(
            f"{model}: pretrained weights cannot be had ({reason[:200]})\nwithout the network: {advice}"
        ) from error


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


#: What a weights argument says that is no file: mvkit's default, and random weights.
_OWN = "released"
_RANDOM = "random"

_FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".tar", ".bin")

_LIBRARIES = {"torchvision": build_torchvision, "timm": build_timm}


def load_foreign(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    """Build a model from elsewhere.

    Parameters
    ----------
    name
        From :func:`mvkit.models.external.parse_foreign`.
    weights
        Of torchvision and timm: "random", the library's name of pretrained weights (``DEFAULT``), or a file.
        Of a user's function: a file; "released" and "random" both mean as the function makes it.
    seed
        Of random weights; None: 0.
    options
        Preprocessing that wins over what is declared.

    Returns
    -------
    ForeignModel
        In eval mode, on the CPU; ``weights_id`` is the sha256 of its state.

    Raises
    ------
    UsageError
        If the name, the weights or an option do not exist or do not go together.
    CheckpointError
        If a file cannot be read or does not fit.
    UserCodeError
        If a user's own code fails.
    """
    if name.kind in _LIBRARIES:
        model = _of_library(name, weights, seed, options)
    else:
        model = _of_user(name, weights, seed, options)
    return model.eval()


def declared_layers(module: object) -> tuple[str, ...] | None:
    """Return the layers that a module declares to be scored; None if its ``layers`` is something else."""
    layers = getattr(module, "layers", None)
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, str) for layer in layers):
        return None
    return tuple(layers)


def _of_user(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    network, declared = make_network(name, seed)
    if weights not in (_OWN, _RANDOM):
        fill_foreign(network, Path(weights).expanduser(), name.shown)
    refuse_meta(network, name.shown)
    preprocess = _user_preprocess(network, declared, name, options)
    return ForeignModel(network, name.shown, declared_layers(declared) or (), preprocess)


def _of_library(
    name: ForeignName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ForeignModel:
    if weights == _OWN:
        raise UsageError(
            f"{name.shown}: say which weights: --weights random, --weights DEFAULT (the library's pretrained "
            "ones, which it downloads), or --weights FILE; in Python load_model(name, weights=...)"
        )
    network, declared = _LIBRARIES[name.kind](name.inside, _file_or_name(weights), seed)
    return ForeignModel(network, name.shown, (), _changed(declared, name, options))


def _file_or_name(weights: str | os.PathLike[str]) -> str | FileWeights:
    """Read what stands for a library's weights: their name, FILE, or ENTRY=FILE."""
    path = Path(weights).expanduser()
    if isinstance(weights, str) and not path.is_file():
        entry, equals, file = weights.partition("=")
        if equals and os.sep not in entry and is_file_name(file):
            return FileWeights(Path(file).expanduser(), entry)
    return FileWeights(path) if is_file_name(weights) else str(weights)


def is_file_name(weights: str | os.PathLike[str]) -> bool:
    """Tell a file of weights from the name of weights in a library."""
    path = Path(weights).expanduser()
    return (
        not isinstance(weights, str) or path.suffix in _FILE_SUFFIXES or os.sep in weights or path.is_file()
    )


def _user_preprocess(
    network: nn.Module, declared: Any, name: ForeignName, options: InputOptions
) -> Preprocessing | UserPreprocessing:
    """Return what a user's network declares: its ``.preprocess``, or timm's data configuration."""
    own = getattr(declared, "preprocess", None)
    if own is not None:
        return _changed(as_preprocessing(own, name.shown), name, options)
    if is_timm_network(network):
        return _changed(timm_input(network, name.shown), name, options)
    return _undeclared(name, options)


def _changed(
    declared: Preprocessing | UserPreprocessing, name: ForeignName, options: InputOptions
) -> Preprocessing | UserPreprocessing:
    if isinstance(declared, Preprocessing):
        return options.applied_to(declared)
    options.refuse_any(f"{name.shown} brings a .preprocess function of its own")
    return declared


def _undeclared(name: ForeignName, options: InputOptions) -> Preprocessing:
    """Return the usual preprocessing where a network declares none, and say so."""
    chosen = options.applied_to(IMAGENET_224)
    if not {"--input-size", "mean", "std"} <= set(options.given):
        logger.warning(
            "%s declares no preprocessing: images as for ImageNet (resize %s, crop %s, mean %s, std %s); "
            "--input-size, mean, std or .preprocess change it",
            printable(name.shown),
            chosen.resize_px,
            chosen.crop_px,
            ",".join(f"{value:g}" for value in chosen.mean),
            ",".join(f"{value:g}" for value in chosen.std),
        )
    return chosen
