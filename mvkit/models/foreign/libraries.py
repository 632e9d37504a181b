"""Networks of torchvision and timm by name, with all that the library declares about them."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.errors import CheckpointError, FetchError, MissingPackageError, MvkitError, UsageError, printable
from mvkit.models.foreign.network import seeded
from mvkit.models.foreign.options import IMAGENET_224, InputOptions
from mvkit.models.foreign.preparing import (
    ForeignPreprocessing,
    UserPreprocessing,
    read_preset,
    read_timm,
)
from mvkit.models.foreign.weights import (
    AUXILIARY_HEADS,
    all_finite,
    fill_with,
    log_heads_aside,
    raw_state,
    read_state,
)
from mvkit.models.foreign.wrappers import WRAPPER_PARTS
from mvkit.models.matching import check_values, plain_keys
from mvkit.models.preprocessing import Preprocessing
from mvkit.naming import suggest
from mvkit.paths import is_offline

logger = logging.getLogger(__name__)

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
