"""External models: torchvision, timm, and the user's own code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import re
import socket
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mvkit.display import quiet_logger
from mvkit.errors import (
    CheckpointError,
    FetchError,
    MissingPackageError,
    MvkitError,
    UsageError,
    UserCodeError,
    option_name,
    printable,
    suggest,
    unknown_name,
    wording,
)
from mvkit.files import sha256_of
from mvkit.models.base import (
    FINAL,
    VisionModel,
    WeightsProvenance,
    declared_clip,
    declared_names,
    declared_viewing,
    guard_missing_weights,
    meta_tensors,
    missing_weights,
    state_digest,
)
from mvkit.models.checkpoints import (
    WRAPPERS,
    MisfitError,
    add_missing_head,
    check_values,
    find_entries,
    find_weights,
    fit_state,
    plain_keys,
    read_checkpoint,
    strip_parts,
)
from mvkit.models.names import (
    WEIGHT_CHOICES,
    ExternalName,
    check_exists,
    missing_module,
    split_key,
    split_weights,
)
from mvkit.models.preprocessing import (
    IMAGENET_224,
    ExternalPreprocessing,
    InputOptions,
    Preprocessing,
    UserCode,
    UserPreprocessing,
    as_preprocessing,
    read_preset,
    read_timm,
)
from mvkit.paths import expand, is_offline

logger = logging.getLogger(__name__)

_Network = TypeVar("_Network", bound=nn.Module)

#: How images become a network's input.
_AnyPreprocessing = Preprocessing | UserPreprocessing

#: A network, and how images become its input.
_NetworkAndInput = tuple[nn.Module, _AnyPreprocessing]

#: Heads of torchvision's networks that only training uses, by their first component.
AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits", "aux_classifier")

#: Counts of batches seen, which evaluation does not use and checkpoints of torch before 0.4.1 do not have.
_COUNTS = "num_batches_tracked"

#: Names in DenseNets' files from before torch 0.4, where modules could have dots in their names.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")

#: What to do about a damaged file.
_SAVE_AGAIN = "save or download it again"

#: Names of entries that a message lists at most.
_SHOWN = 5

#: The settings of a torchvision network whose weights are of no entry: ``--weights none=FILE``.
_NO_ENTRY = "none"

#: Plain attributes of modules that do not change what evaluation computes.
_NOT_SETTINGS = frozenset(
    {"training", "init_weights", "aux_logits", "dropout", "dropout_p", "missing_weights"}
)

#: What evaluation computes besides weights: (module, attribute, value).
_Settings = frozenset[tuple[str, str, str]]

#: One at a time: an entry of weights gives the state of a file while a network is built.
_BUILDING = threading.Lock()


def load_external(
    name: ExternalName, weights: str | os.PathLike[str], seed: int | None, options: InputOptions
) -> ExternalModel:
    """Build an external model.

    Parameters
    ----------
    name
        From :func:`mvkit.models.names.parse_external`.
    weights
        Of torchvision and timm: "random", the library's name of pretrained weights (``DEFAULT``), or a file.
        Of a user's function: a file; "released" and "random" both mean as the function makes it.
    seed
        Of random weights; None: 0.
    options
        Preprocessing that wins over what is declared.

    Returns
    -------
    ExternalModel
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
    name.check(weights)
    if name.is_of_library:
        build = build_torchvision if name.kind == "torchvision" else build_timm
        network, declared = build(name.item, weights, seed)
        model = ExternalModel(network, name.label, (), _apply_options(declared, name.label, options))
    else:
        network, declaring = make_network(name, seed)
        if weights not in WEIGHT_CHOICES:
            fill_from_file(network, expand(weights), name.label)
        check_has_values(network, name.label)
        preprocess = _user_preprocess(network, declaring, name.label, options)
        model = ExternalModel(network, name.label, declared_names(declaring, "layers"), preprocess, declaring)
    model.provenance = WeightsProvenance(name.label, source=_describe_source(name, weights, seed or 0))
    return model.eval()


def _describe_source(name: ExternalName, weights: str | os.PathLike[str], seed: int) -> str:
    path, entry = split_weights(weights)
    if path is not None:
        return f"file {path.name}" + (f", settings of {entry}" if entry else "")
    if weights == "random":
        return f"random, seed {seed}"
    return name.label if weights == "released" else f"{name.label}, weights {weights}"


def _user_preprocess(
    network: nn.Module, declared: object, label: str, options: InputOptions
) -> _AnyPreprocessing:
    """Return what a user's network declares: its ``.preprocess``, or timm's data configuration."""
    own = getattr(declared, "preprocess", None)
    if own is not None:
        return _apply_options(as_preprocessing(own, label), label, options)
    if is_timm_network(network):
        return _apply_options(timm_input(network, label), label, options)
    return _default_preprocessing(label, options)


def _apply_options(declared: _AnyPreprocessing, label: str, options: InputOptions) -> _AnyPreprocessing:
    if isinstance(declared, Preprocessing):
        return options.apply(declared)
    options.check_only(("viewing",), f"{label} brings a .preprocess function of its own")
    return declared


def _default_preprocessing(label: str, options: InputOptions) -> Preprocessing:
    """Return the usual preprocessing where a network declares none, and log it."""
    usual = options.apply(IMAGENET_224)
    if not {"input_size", "mean", "std"} <= set(options.given):
        logger.warning(
            "%s declares no preprocessing: images as for ImageNet (resize %s, crop %s, mean %s, std %s); "
            "%s, mean, std or .preprocess change it",
            printable(label),
            usual.resize_px,
            usual.crop_px,
            ",".join(f"{value:g}" for value in usual.mean),
            ",".join(f"{value:g}" for value in usual.std),
            wording("--input-size", "input_size"),
        )
    return usual


def with_input_size(model: nn.Module, input_size: int) -> ExternalModel:
    """Give a network that somebody made the preprocessing for inputs of a size.

    Parameters
    ----------
    model
        Any network; its modules and weights are shared, not copied.
    input_size
        Side of the input in pixels. What else is done to images is what the network's ``.preprocess``
        declares, or as for ImageNet.

    Raises
    ------
    UsageError
        If the model has been loaded by mvkit, the size is out of range, or the network's ``.preprocess`` is a
        function, which no option changes.
    """
    if isinstance(model, VisionModel):
        raise UsageError(
            f"input_size: {model.name} is loaded already; give the size to load_model(name, input_size=...)"
        )
    network = unwrap(model)
    label = str(getattr(network, "name", type(network).__name__))
    preprocess = _user_preprocess(network, network, label, InputOptions(input_size))
    wrapped = ExternalModel(network, label, declared_names(network, "layers"), preprocess)
    return wrapped.train(network.training)


def make_network(name: ExternalName, seed: int | None) -> tuple[nn.Module, object]:
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
        returned, whose attributes ``layers``, ``preprocess`` and ``clip_frames`` may declare how to use it.

    Raises
    ------
    UsageError
        If there is no such file, module or function, or the function takes arguments.
    UserCodeError
        If the code fails, or what it returns is no ``nn.Module``.
    """
    folder = name.path.resolve().parent if name.kind == "file" else Path.cwd()
    with _importable(folder, forget=name.kind == "file"):
        made = build_with_seed(lambda: _call_factory(name), seed)
    declared = unwrap(made)
    declares = ("layers", "preprocess", "clip_frames")
    return unwrap_all(made), made if any(hasattr(made, name) for name in declares) else declared


def _call_factory(name: ExternalName) -> nn.Module:
    module = _import_file(name) if name.kind == "file" else _import_module(name)
    factory = _find_factory(name, module)
    with UserCode(f"{name.label}: making the network failed"):
        made = factory()
    if not isinstance(made, nn.Module):
        raise UserCodeError(f"{name.label}: returned a {type(made).__name__}; needed: a torch.nn.Module")
    with UserCode(f"{name.label}: its weights cannot be listed"):
        made.state_dict()
    if any(is_lazy(value) for value in [*made.parameters(), *made.buffers()]):
        raise UserCodeError(
            f"{name.label}: the network has lazy modules, whose weights have no shape yet\n"
            "run it once on an input before returning it"
        )
    return made


def _import_file(name: ExternalName) -> ModuleType:
    path = name.path
    # A name of its own: a file `timm.py` must not become the module `timm` of others, nor be taken for it.
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"mvkit_user_{digest}_{path.stem}", path.resolve())
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


def _import_module(name: ExternalName) -> ModuleType:
    try:
        with UserCode(f"{name.source}: cannot be imported"):
            return importlib.import_module(name.source)
    except UserCodeError as error:
        cause = error.__cause__
        parts = name.source.split(".")
        parents = {".".join(parts[: count + 1]) for count in range(len(parts))}
        if isinstance(cause, ModuleNotFoundError) and cause.name in parents:
            raise missing_module(name, str(cause.name)) from None
        raise


def _missing_argument(error: TypeError) -> str:
    """Return ``the argument 's'`` of Python's "missing a required argument: 's'"."""
    name = str(error).rpartition(": ")[2]
    return f"the argument {name}" if name.startswith("'") else "arguments"


def _find_factory(name: ExternalName, module: ModuleType) -> Callable[[], object]:
    try:
        factory: Any = reduce(getattr, name.item.split("."), module)
    except AttributeError:
        own = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and callable(value) and value.__module__ == module.__name__
        ]
        raise unknown_name(f"function of {Path(name.source).name}", name.item, own) from None
    if not callable(factory) or isinstance(factory, nn.Module):
        raise UsageError(f"{name.label} is a {type(factory).__name__}, not a function that makes a network")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(
            f"{name.label} needs {_missing_argument(error)}, and mvkit calls it without any\n"
            "name a function of your own that fills it in: FILE.py:FUNCTION"
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
            file = getattr(sys.modules[key], "__file__", None)
            if file and key.partition("_user_")[0] != "mvkit" and _lies_in(Path(file), folder):
                del sys.modules[key]


def _lies_in(file: Path, folder: Path) -> bool:
    """Tell whether a module is the user's: in the folder, but not installed in an environment inside it."""
    resolved = file.resolve()
    return resolved.is_relative_to(folder) and "site-packages" not in resolved.parts


def build_torchvision(name: str, weights: str | os.PathLike[str], seed: int | None) -> _NetworkAndInput:
    """Build a network of torchvision, with every field of the weights' entry.

    A file is built as the library builds its entry of weights: with the same arguments (``transform_input``,
    ``quantize``), names of keys and transforms. It is known by the published name, or by its content, whose
    sha256 begins as in the published name. Of other files the entries that they fit are compared: where
    these declare different things, one must be named.

    Parameters
    ----------
    name
        As ``torchvision.models.list_models()`` gives it.
    weights
        "random"; the name of an entry of the model's weights (``DEFAULT``, ``IMAGENET1K_V1``); or a file
        (FILE, ENTRY=FILE).
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
    path, entry_name = split_weights(weights)
    if path is not None:
        return model.build_with_file(path, entry_name)
    if weights == "random":
        network = model.build_bare(seed)
        return network, model.input_without_entry(network)
    entry = model.entry(str(weights))
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    advice = wording(
        f"download {entry.url} on another machine and give --weights FILE, or --weights random",
        f'download {entry.url} on another machine and give weights="FILE", or weights="random"',
    )
    with _explain_download_errors(f"torchvision:{name}", advice, is_here=cached.is_file()):
        return model.build(entry), model.input_of_entry(entry)


class _TorchvisionModel:
    """A model of torchvision's: its builder and the entries of its weights."""

    def __init__(self, name: str) -> None:
        from torchvision import models

        self.name = name
        self.label = f"torchvision:{name}"
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
            f"{self.label} has no weights '{name}'{suggest(name, valid)}\n"
            f"valid: {', '.join(dict.fromkeys(valid))}, or a file (FILE, ENTRY=FILE)"
        )

    def build_bare(self, seed: int | None = None) -> nn.Module:
        """Build it without weights."""
        # Detectors download a pretrained backbone by default.
        options = {"weights_backbone": None} if "weights_backbone" in self._parameters else {}
        with warnings.catch_warnings(action="ignore"):
            return build_with_seed(lambda: self._builder(weights=None, **options), seed)

    def build(self, entry: Any, state: Mapping[str, Any] | None = None) -> nn.Module:
        """Build it as the library does for an entry of weights; with a state in place of the download."""
        options = {"quantize": True} if "unquantized" in entry.meta else {}
        with warnings.catch_warnings(action="ignore"), _state_for(entry, state):
            return build_with_seed(lambda: self._builder(weights=entry, **options), None)

    def input_of_entry(self, entry: Any) -> _AnyPreprocessing:
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
                f"{self.label} takes {what} (its weights declare {kind}), not pictures\n"
                "wrap it in a function of your own, with .preprocess for one picture"
                f"{' and .clip_frames' if kind == 'VideoClassification' else ''}: FILE.py:FUNCTION"
            )
        return UserPreprocessing(steps, f"{self.label} ({entry.name})")

    def input_without_entry(self, network: nn.Module) -> _AnyPreprocessing:
        """Return what the first entry declares whose images have the size that the network takes."""
        side = getattr(network, "image_size", None)
        if not self.entries:
            return IMAGENET_224
        declared = [self.input_of_entry(entry) for entry in self.entries]
        fitting = [one for one in declared if getattr(one, "crop_px", side) == side]
        if not isinstance(side, int) or not isinstance(declared[0], Preprocessing):
            return declared[0]
        if fitting:
            return fitting[0]
        logger.warning("%s: no weights declare images of %d px; they are resized to it", self.label, side)
        return InputOptions(side).apply(declared[0])

    def build_with_file(self, path: Path, entry_name: str | None) -> _NetworkAndInput:
        """Build it with the weights of a file."""
        state = read_state(path)
        if entry_name == _NO_ENTRY:
            network = self.build_bare()
            self._fill_bare(network, state, path)
            return network, self.input_without_entry(network)
        if entry_name is not None:
            built = self._build_entry(self.entry(entry_name), state, path, is_published=False)
            if lacking := missing_weights(built[0]):
                logger.warning("%s; layers that need them cannot be recorded", printable(lacking))
            return built
        published = next((row for row in self.entries if _is_published_as(row.url, path)), None)
        if published is not None:
            return self._build_entry(published, state, path, is_published=True)
        return self._build_unknown(state, path)

    def _build_entry(
        self, entry: Any, file_state: Mapping[str, Tensor], path: Path, *, is_published: bool
    ) -> _NetworkAndInput:
        declared = self.input_of_entry(entry)
        state, lacking = self._state_for_entry(file_state, path, entry)
        try:
            network = self.build(entry, state)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: does not fit '{self.label}' as {entry.name} ({reason[:300]})\n"
                "is it a checkpoint of another architecture?"
            ) from error
        # Published ones may hold NaN in layers that nobody uses (VGG16's features).
        if not is_published:
            filled = network.state_dict()
            there = [key for key in filled if _is_plain(state.get(key)) and key not in lacking]
            check_values(state, {key: filled[key].to("meta") for key in there}, path)
        guard_missing_weights(network, lacking, path)
        return network, declared

    def _build_unknown(self, state: Mapping[str, Tensor], path: Path) -> _NetworkAndInput:
        """Build it for a file that is of no known entry, if all entries that it fits agree."""
        fitting: dict[str, tuple[_Settings, _AnyPreprocessing]] = {}
        for entry in self.entries:
            network = self._try_entry(entry, state, path)
            if network is not None:
                fitting[entry.name] = _settings(network), self.input_of_entry(entry)
        bare = self.build_bare()
        try:
            self._fill_bare(bare, state, path, quiet=True)
        except CheckpointError:
            if not fitting:
                raise
        else:
            fitting[_NO_ENTRY] = _settings(bare), self.input_without_entry(bare)
        distinct: list[str] = []
        for name in fitting:
            if fitting[name] not in [fitting[other] for other in distinct]:
                distinct.append(name)
        if len(distinct) > 1:
            common = set.intersection(*(set(fitting[name][0]) for name in distinct))
            choices = [
                wording(f"--weights {name}={path}", f'weights="{name}={path}"')
                + f" ({_describe_settings(fitting[name][0] - common, fitting[name][1])})"
                for name in distinct
            ]
            raise UsageError(
                f"{path}: neither its name nor its content tells which weights of {self.label} these are, "
                f"and they differ\nname them: {'; '.join(choices)}"
            )
        first = distinct[0]
        logger.warning(
            "%s: not one of torchvision's files; built, and images prepared (%s), as for %s of %s",
            printable(str(path)),
            _describe_input(fitting[first][1]),
            "new weights" if first == _NO_ENTRY else first,
            self.label,
        )
        if first == _NO_ENTRY:
            warn_unused_heads(bare, state, path)
            return bare, fitting[first][1]
        # Values were checked when the bare network was filled.
        return self._build_entry(self.entry(first), state, path, is_published=_NO_ENTRY in fitting)

    def _try_entry(self, entry: Any, file_state: Mapping[str, Tensor], path: Path) -> nn.Module | None:
        """Build it for an entry with the state of a file, on "meta" if possible; None if it does not fit."""
        state, _ = self._state_for_entry(file_state, path, entry)
        for device in ("meta", "cpu"):
            try:
                with torch.device(device):
                    return self.build(entry, state)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, it does not fit
                if "Error(s) in loading state_dict" in str(error):
                    return None
        return None

    def _state_for_entry(
        self, file_state: Mapping[str, Tensor], path: Path, entry: Any
    ) -> tuple[Mapping[str, Any], list[str]]:
        """Return a file's state without wrappers' names, and with the heads that only training uses.

        If it lacks the network's head, that is NaN; its keys are returned, too.
        """
        if "unquantized" in entry.meta:
            # Entries that are no tensors count, too.
            return raw_state(path), []
        own = self.build_bare().state_dict()
        expected = {key: value for key, value in own.items() if isinstance(value, Tensor)}
        keys = plain_keys(file_state, expected, WRAPPERS)
        state = _state_like(file_state, {plain: file_state[key] for key, plain in keys.items()})
        heads = {key.partition(".")[0] for key in state}
        for key, value in expected.items():
            head = key.partition(".")[0]
            if head in AUXILIARY_HEADS and head not in heads:
                state[key] = value
        complete, lacking = add_missing_head(state, expected)
        return _state_like(state, complete), lacking

    def _fill_bare(
        self, network: nn.Module, state: Mapping[str, Tensor], path: Path, *, quiet: bool = False
    ) -> None:
        """Fill a network without an entry's settings; heads that the file lacks are taken off."""
        for head in AUXILIARY_HEADS:
            if getattr(network, head, None) is not None and not any(f"{head}." in key for key in state):
                setattr(network, head, None)
        fill_network(network, state, path, self.label, quiet=quiet)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_quantized


def _settings(network: nn.Module) -> _Settings:
    """Return the kinds and plain attributes of a network's modules, without heads that only training uses."""
    settings = set()
    for name, module in network.named_modules():
        if name.partition(".")[0] in AUXILIARY_HEADS:
            continue
        settings.add((name, "kind", type(module).__qualname__))
        settings |= {
            (name, key, repr(value))
            for key, value in vars(module).items()
            if not key.startswith("_")
            and key not in _NOT_SETTINGS
            and isinstance(value, bool | int | float | str | tuple | list | type(None))
            and key not in AUXILIARY_HEADS
        }
    return frozenset(settings)


def _describe_settings(special: _Settings, declared: _AnyPreprocessing) -> str:
    """Describe special settings of a network, and how images are prepared."""
    texts = [f"{f'{name}.' if name else ''}{key}={value}" for name, key, value in sorted(special)]
    return "; ".join([*texts[:2], _describe_input(declared)])


def _describe_input(declared: _AnyPreprocessing) -> str:
    if isinstance(declared, UserPreprocessing):
        return str(declared.as_dict().get("steps", declared.as_dict()["function"]))
    sizes = [(word, px) for word, px in (("resize", declared.resize_px), ("crop", declared.crop_px)) if px]
    texts = [f"{word} {px}" for word, px in sizes]
    return ", ".join([*texts, getattr(declared, "interpolation", "bilinear")])


def _is_published_as(url: str, path: Path) -> bool:
    """Tell whether a file is the published one, by its sha256: digits in the name, or of the content."""
    stem = Path(url).stem
    digits = re.search(r"[-_]([0-9a-f]{8,64})$", stem)
    if path.name == Path(url).name or digits is None:
        return path.name == Path(url).name
    file, _ = split_key(path)
    return digits[1] in re.split(r"[^0-9a-z]+", file.stem.lower()) or sha256_of(file).startswith(digits[1])


@contextmanager
def _state_for(entry: Any, state: Mapping[str, Any] | None) -> Iterator[None]:
    """Let an entry of torchvision's weights give a state dict that is at hand; None: let it download."""
    if state is None:
        yield
        return
    with _BUILDING:
        entry.get_state_dict = lambda *_arguments, **_options: _state_like(state, state)
        try:
            yield
        finally:
            del entry.get_state_dict


def build_timm(name: str, weights: str | os.PathLike[str], seed: int | None) -> _NetworkAndInput:
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
            f"timm:{name} needs timm, which is not installed ({error}): pip install timm"
        ) from None
    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'{suggest(name, timm.list_models())}")
    path, entry = split_weights(weights)
    if path is not None:
        if entry is not None:
            raise UsageError(
                f"timm:{name} has no entry '{entry}': give "
                + wording(f"--weights {path}", f'weights="{path}"')
                + ", and the tag of "
                f"the weights that it is like in the name: timm:{name.partition('.')[0]}.TAG"
            )
        network = _build_timm_with_file(name, path, seed)
    elif weights == "random":
        with warnings.catch_warnings(action="ignore"):
            network = build_with_seed(lambda: timm.create_model(name, pretrained=False), seed)
    elif weights in ("DEFAULT", "pretrained"):
        advice = wording(
            "download them on another machine and give --weights FILE, or --weights random",
            'download them on another machine and give weights="FILE", or weights="random"',
        )
        with (
            _explain_download_errors(f"timm:{name}", advice, is_here=False),
            quiet_logger("huggingface_hub", logging.ERROR),
            warnings.catch_warnings(action="ignore"),
        ):
            network = timm.create_model(name, pretrained=True)
    else:
        raise UsageError(f"timm:{name} has no weights '{weights}'; valid: random, DEFAULT, or a file")
    return network, timm_input(network, f"timm:{name}")


def timm_input(network: nn.Module, label: str) -> ExternalPreprocessing:
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
            f"{label}: timm's data configuration has input_size {tuple(config['input_size'])}, but the layer "
            f"'{first}' takes {channels} channel(s)\nmake the network in a function of your own with "
            ".preprocess (FILE.py:FUNCTION)"
        )
    return read_timm(config, label)


def is_timm_network(network: nn.Module) -> bool:
    """Tell whether a network carries timm's data configuration."""
    config = getattr(network, "pretrained_cfg", None)
    return isinstance(config, Mapping) and {"input_size", "mean", "std"} <= set(config)


def _build_timm_with_file(name: str, path: Path, seed: int | None) -> nn.Module:
    """Build a network of timm's with the weights of a file, whose keys timm itself renames where needed."""
    import timm

    state = read_state(path)
    tagged = _tag_of_file(name, path)

    def make(**options: Any) -> nn.Module:
        with warnings.catch_warnings(action="ignore"):
            return build_with_seed(lambda: timm.create_model(tagged, **options), seed)

    network, misfit = make(pretrained=False), None
    try:
        fill_network(network, state, path, f"timm:{name}")
    except MisfitError as error:
        misfit = error
    if (misfit or missing_weights(network)) and all_finite(state):
        try:
            return make(pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state), "source": ""})
        except Exception:  # noqa: BLE001 - the error of mvkit's own matching is the one to show
            logger.debug("timm does not load %s either", printable(str(path)))
    if misfit is not None:
        raise misfit
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
            "%s: images are prepared as for timm's %s.%s; of other weights name the tag: timm:%s.TAG",
            printable(str(path)),
            name,
            getattr(default, "tag", "") or "default",
            name,
        )
    return name


@contextmanager
def _explain_download_errors(model: str, advice: str, *, is_here: bool) -> Iterator[None]:
    if is_offline() and not is_here:
        raise FetchError(
            f"{model}: pretrained weights would have to be downloaded, but MVKIT_OFFLINE is set\n{advice}"
        )
    try:
        yield
    except MvkitError:
        raise
    except Exception as error:
        raise FetchError(
            f"{model}: pretrained weights cannot be downloaded ({_download_reason(error)})\n{advice}"
        ) from error


def _download_reason(error: BaseException) -> str:
    """Return why a library could not download: no connection, or the first words of its own error."""
    chain: BaseException | None = error
    while chain is not None:
        # requests, httpx and urllib have classes of their own; what they have in common is the name.
        if isinstance(chain, ConnectionError | socket.gaierror) or "Connect" in type(chain).__name__:
            return "no connection to the server"
        chain = chain.__cause__ or chain.__context__
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def fill_from_file(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a network's parameters and buffers from a file, whatever wrappers it was saved under.

    Old names of keys are understood where the network's own library understands them. Heads of torchvision's
    that only training uses are left out, with a warning, if the network has none.

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
    fill_network(network, read_state(path), path, model_name)


def fill_network(
    network: nn.Module, weights: Mapping[str, Tensor], path: Path, model_name: str, *, quiet: bool = False
) -> None:
    """Fill a network from the state dict of :func:`read_state`; as :func:`fill_from_file`."""
    has_meta = _check_meta(network, model_name)
    if not quiet:
        warn_unused_heads(network, weights, path)
    heads = _missing_heads(network)
    weights = _state_like(
        weights,
        {_todays_name(key): value for key, value in weights.items() if not _head_of(key, heads)},
    )
    own = network.state_dict(keep_vars=True)
    if any(not isinstance(value, Tensor) or value.is_quantized for value in own.values()):
        _fill_by_torch(network, path, model_name)
        return
    has_counts = any(key.endswith(_COUNTS) for key in weights)
    state = {key: value for key, value in own.items() if has_counts or not key.endswith(_COUNTS)}
    plain, wrappers = strip_parts(state, WRAPPERS), WRAPPERS
    expected = {plain[key]: value for key, value in state.items()}
    if len(expected) < len(state):
        # The network has modules of its own under a wrapper's name; only exact names are unambiguous then.
        plain, expected, wrappers = {key: key for key in state}, state, tuple[str, ...]()
    try:
        fit = fit_state(weights, expected, path, model_name, wrappers=wrappers)
    except MisfitError as error:
        # Modules may know older names of their entries: torch asks them while it loads.
        if not _loads(network, plain_keys(weights, expected, wrappers), weights, assign=has_meta):
            raise error from None
        return
    if fit.missing and _loads(network, plain_keys(weights, expected, wrappers), weights, assign=has_meta):
        return
    # Copies, as the file may be mapped into memory.
    filled = _state_like(own, {key: fit.state[plain[key]].clone() for key in state})
    network.load_state_dict(filled, strict=False, assign=has_meta)
    lacking = {*fit.missing}
    guard_missing_weights(network, [key for key in state if plain[key] in lacking], path)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file, with torch's ``_metadata`` if the file has any.

    Raises
    ------
    CheckpointError
        If there is no such file, it cannot be read, or holds no weights.
    """
    check_exists(path)
    file, key = split_key(path)
    return find_weights(read_checkpoint(file, remedy=_SAVE_AGAIN), file, key)


def check_has_values(network: nn.Module, model_name: str) -> None:
    """Check that a network has values.

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
            f"{', '.join(meta[:_SHOWN])}{more}\ngive its weights ("
            + wording("--weights FILE", 'weights="FILE"')
            + "), or make it on the CPU"
        )


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict holds neither NaN nor infinity."""
    return all(
        bool(torch.isfinite(value).all())
        for value in state.values()
        if value.is_floating_point() and value.layout == torch.strided and not value.is_meta
    )


def warn_unused_heads(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Log which heads of torchvision's that only training uses are in a file and not in a network."""
    heads = _missing_heads(network)
    unused = [head for key in weights if (head := _head_of(key, heads))]
    if unused:
        listed = ", ".join(f"{head} ({unused.count(head)} entries)" for head in dict.fromkeys(unused))
        logger.warning(
            "%s: left aside %s, which the network has not and only training uses",
            printable(str(path)),
            listed,
        )


def _missing_heads(network: nn.Module) -> list[str]:
    parts = {part for key in network.state_dict() for part in key.split(".")}
    return [head for head in AUXILIARY_HEADS if head not in parts]


def _head_of(key: str, heads: Sequence[str]) -> str | None:
    return next((head for head in heads if head in key.split(".")[:-1]), None)


def _todays_name(key: str) -> str:
    """Return today's name for one of DenseNets before torch 0.4."""
    old = _OLD_DENSENET.fullmatch(key)
    return f"{old[1]}{old[2]}" if old else key


def _state_like(state: Mapping[str, Any], entries: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return entries as a state dict with the versions of modules that another one has."""
    copied: Any = OrderedDict(entries)
    if (metadata := getattr(state, "_metadata", None)) is not None:
        copied._metadata = metadata
    return copied  # type: ignore[no-any-return]


def raw_state(path: Path) -> Mapping[str, Any]:
    """Return the state dict in a file with entries that are no tensors, which quantised modules have.

    Raises
    ------
    CheckpointError
        As :func:`read_state`.
    """
    file, key = split_key(path)
    return find_entries(read_checkpoint(file, remedy=_SAVE_AGAIN), file, key)


def _check_meta(network: nn.Module, model_name: str) -> bool:
    """Tell whether anything lies on the device "meta"; check that files of weights have all of it."""
    meta = meta_tensors(network)
    state = network.state_dict(keep_vars=True) if meta else {}
    unsaved = [name for name in meta if name not in state]
    if unsaved:
        raise CheckpointError(
            f"{model_name}: buffers {', '.join(unsaved[:_SHOWN])} lie on the device 'meta', and no file of "
            "weights has them\nmake the network on the CPU (not under torch.device('meta'))"
        )
    return bool(meta)


def _fill_by_torch(network: nn.Module, path: Path, model_name: str) -> None:
    """Fill a quantised network, whose modules pack their weights themselves."""
    try:
        network.load_state_dict(raw_state(path))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit '{model_name}' ({reason[:300]})") from error


def _loads(
    network: nn.Module, keys: Mapping[str, str], weights: Mapping[str, Tensor], *, assign: bool
) -> bool:
    """Let torch load entries of a file (by their names in the network); return whether all fit."""
    state = _state_like(weights, {plain: weights[key] for key, plain in keys.items()})
    if not all_finite(state):
        return False
    try:
        misfits = network.load_state_dict(state, strict=False, assign=assign)
    except Exception:  # noqa: BLE001 - the error of mvkit's own matching is the one to show
        return False
    missing = [key for key in misfits.missing_keys if not key.endswith(_COUNTS)]
    return not missing and not misfits.unexpected_keys


def wrapper_attribute(module: nn.Module) -> str | None:
    """Return the attribute of a wrapper that holds the wrapped network; None if it is no wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    # torch's class for compiled networks lies in torch._dynamo, whose import takes seconds.
    is_compiled = type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
    return "_orig_mod" if is_compiled else None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers, however many there are."""
    while (part := wrapper_attribute(model)) is not None:
        model = cast(nn.Module, model._modules[part])
    return model


def unwrap_all(model: nn.Module) -> nn.Module:
    """Return the network without wrappers, also those around modules inside it, which are replaced in place.

    ``module.compile()`` is undone too: hooks on modules inside compiled code may be skipped.
    """
    plain = unwrap(model)
    for module in list(plain.modules()):
        module._compiled_call_impl = None
        for name, child in list(module._modules.items()):
            if child is not None and wrapper_attribute(child) is not None:
                module._modules[name] = unwrap(child)
    return plain


class ExternalModel(VisionModel):
    """An external network; layers have the paths of its own modules.

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
    declaring
        Module that declares clips and viewing conditions; None: the network.

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
        preprocess: _AnyPreprocessing,
        declaring: object = None,
    ) -> None:
        super().__init__()
        declaring = network if declaring is None else declaring
        self.network = network
        self.viewing = declared_viewing(declaring)
        clip = declared_clip(declaring)
        if clip is not None:
            self.clip_frames, self.clip_axes = clip.n_frames, clip.axes
        self.name = name
        self.layers = layers
        if isinstance(network, VisionModel):
            self.published_layers = network.published_layers
            self.joined_layers = network.joined_layers
        self.preprocess = cast(Preprocessing, preprocess)
        self.weights_id = state_digest(network)

    def forward(self, images: Tensor) -> Any:
        """Run the network; what it raises becomes an error that names file and line."""
        shape = " x ".join(map(str, images.shape))
        with UserCode(
            f"{self.name}: the forward pass of an input {shape} failed",
            f"if it takes images of another size, give {wording('--input-size PX', 'input_size=PX')}",
        ):
            return self.network(images)

    def tap_points(self) -> dict[str, str]:
        """Return layer name -> module path; names are paths inside the network."""
        prefix = "network."
        if isinstance(self.network, VisionModel):
            return {name: f"{prefix}{path}".rstrip(".") for name, path in self.network.tap_points().items()}
        own = {path.removeprefix(prefix): path for path in self.module_paths() if path.startswith(prefix)}
        # Transforms of pictures are no part of the forward pass, even where they are modules.
        inner = {name: path for name, path in own.items() if name.partition(".")[0] != "preprocess"}
        return inner if FINAL in inner else {**inner, FINAL: ""}


def build_with_seed(make: Callable[[], _Network], seed: int | None) -> _Network:
    """Make a network with random weights drawn from a seed (None: 0); torch's generator stays as it was."""
    if not -(2**63) <= (seed or 0) < 2**64:
        raise UsageError(
            f"{option_name('seed')} {seed}: give a whole number below 2**64, which torch can take"
        )
    # Only the CPU's generator draws: seeding all devices would disturb CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        return make()
