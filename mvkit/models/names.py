"""Names of models and of their layers, and checks of them that need no torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mvkit.errors import CheckpointError, UsageError, suggest, unknown_name, wording
from mvkit.files import check_output_path, inspect_file
from mvkit.machine import time_limit
from mvkit.models.registry import (
    RELEASED,
    Baseline,
    JoinedLayer,
    ModelRow,
    find_model,
    is_model,
    layer_names,
)
from mvkit.paths import checkpoint_path, expand

if TYPE_CHECKING:
    from mvkit.models.preprocessing import InputOptions

#: The newest checkpoint of a training run and that of its best epoch, in its folder.
LAST, BEST = "last.pt", "best.pt"

#: Values of ``--resume`` that are no path.
AUTO, NEVER = "auto", "never"

#: Stands for a model's published list wherever layers are named.
PUBLISHED = "published"

#: Stands for all populations of several layers that a model declares.
JOINED = "joined"

#: Lists all layers of a model.
LISTING_COMMAND = "mvkit list layers MODEL"

#: Words for weights that are no file.
WEIGHT_CHOICES = ("released", "random")

SAFETENSORS = ".safetensors"
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", SAFETENSORS)


def check_models(
    names: Sequence[str],
    *,
    weights: str | os.PathLike[str] = "released",
    layers: str | Sequence[str] | None = None,
    home: Path | None = None,
) -> None:
    """Check the names in a request without importing torch or reading a file.

    Parameters
    ----------
    names, weights, home
        As for :func:`mvkit.load_model`, for each model.
    layers
        Names or patterns of layers; those of a checkpoint or an external model are checked when it is loaded.

    Raises
    ------
    UsageError
        If there is no such model, layer or choice of weights.
    CheckpointError
        If a file of weights does not exist.
    """
    asked = (layers,) if isinstance(layers, str) else layers or ()
    patterns = [pattern for pattern in asked if pattern != PUBLISHED]
    for given in names:
        name, chosen = split_random(given, weights)
        external = parse_external(name)
        if external is not None:
            external.check(chosen)
        elif is_checkpoint_path(name):
            find_checkpoint(name, chosen)
        else:
            row = _find_model(name, names, patterns)
            weights_path(row, chosen, home)
            try:
                if patterns:
                    names_of_layers = layer_names(row.architecture.blueprint)
                    plain, _ = split_joined(patterns, names_of_layers, row.architecture.joined_layers)
                    if plain:
                        match_layers(plain, names_of_layers)
            except UsageError as error:
                raise error if len(names) == 1 else UsageError(f"{name}: {error}") from None


def check_inputs(given: str | os.PathLike[str], inputs: InputOptions) -> None:
    """Check that a model of mvkit's takes changes to its input; external models take all.

    Raises
    ------
    UsageError
        If it was trained, or is defined, for what would change.
    """
    name, _ = split_random(given)
    if parse_external(name) is not None:
        return
    inputs.check_only(("input_size", "viewing"), f"{name} has its own mean, deviation and colours")
    if inputs.input_size is not None and is_baseline(name):
        raise UsageError(
            f"{name} is defined for its own size of images: leave out "
            + wording("--input-size", "input_size")
        )


def is_baseline(name: str) -> bool:
    """Return whether a model is a fixed transformation of images, which has no weights."""
    return is_model(name) and isinstance(find_model(name).architecture.blueprint, Baseline)


_RANDOM = "@random"


def split_random(
    name: str | os.PathLike[str], weights: str | os.PathLike[str] = "released"
) -> tuple[str, str | os.PathLike[str]]:
    """Return a model's name and weights: ``NAME@random`` is NAME with random weights, whatever is given.

    Of a training run's folder or checkpoint these are the weights it started from.
    """
    text = os.fspath(name)
    if text.endswith(_RANDOM) and not expand(text).exists():
        return text.removesuffix(_RANDOM), "random"
    return text, weights


def _find_model(name: str, names: Sequence[str], layers: Sequence[str]) -> ModelRow:
    """Look up a model; a layer of another one of the names was meant for ``--layers``."""
    try:
        return find_model(name)
    except UsageError:
        for other in names:
            if is_model(other) and name in layer_names(find_model(other).architecture.blueprint):
                raise UsageError(
                    f"{name} is a layer of {other}, not a model\n"
                    + wording(
                        f"separate layers by commas: --layers {','.join([*layers, name])}",
                        f"give layers={[*layers, name]}",
                    )
                ) from None
        raise


ExternalKind = Literal["torchvision", "timm", "module", "file"]

_IDENTIFIER = r"[^\W\d]\w*"
_DOTTED = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_IN_FILE = re.compile(rf"(?P<source>.+\.py):(?P<item>{_DOTTED})", re.DOTALL)
_IN_MODULE = re.compile(rf"(?P<source>{_DOTTED}):(?P<item>{_DOTTED})")
_IN_LIBRARY = re.compile(r"(?P<source>torchvision|timm):(?P<item>.+)", re.DOTALL)
_WEIGHTS_SUFFIXES = (*_CHECKPOINT_SUFFIXES, ".bin")


@dataclass(frozen=True)
class ExternalName:
    """Name of a model that is not one of mvkit's.

    Attributes
    ----------
    kind
        A library, or a module or file of the user's.
    source
        The library, module or file.
    item
        The library's name of the model, or the function that makes it.
    """

    kind: ExternalKind
    source: str
    item: str

    @property
    def path(self) -> Path:
        """The file."""
        return expand(self.source)

    @property
    def label(self) -> str:
        """The name that results carry: as given, but of a file without its folder."""
        return f"{self.path.name if self.kind == 'file' else self.source}:{self.item}"

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for two names of the same model."""
        return (self.kind, str(self.path.resolve()) if self.kind == "file" else self.source, self.item)

    @property
    def is_of_library(self) -> bool:
        """Whether torchvision or timm builds it."""
        return self.kind in ("torchvision", "timm")

    def check(self, weights: str | os.PathLike[str]) -> None:
        """Check that files and modules are there, and that weights of a library were chosen.

        Raises
        ------
        UsageError, CheckpointError
            If not.
        """
        if self.kind == "file" and not self.path.is_file():
            raise UsageError(f"{self.path}: no such file")
        if self.is_of_library:
            if weights == "released":
                raise UsageError(
                    f"{self.label}: say which weights: "
                    + wording(
                        "--weights random, --weights DEFAULT (the library's pretrained ones, which it "
                        "downloads), or --weights FILE",
                        'weights="random", weights="DEFAULT" (the library\'s pretrained ones, which it '
                        'downloads), or weights="FILE"',
                    )
                )
            path, _ = split_weights(weights)
        else:
            package = self.source.partition(".")[0]
            if self.kind == "module" and not _can_import(package):
                raise missing_module(self, package)
            path = None if weights in WEIGHT_CHOICES else expand(weights)
        if path is not None:
            check_exists(path)


def _can_import(package: str) -> bool:
    """Return whether a package is installed or in the current folder; nothing is imported."""
    return (
        package in sys.modules
        or find_spec(package) is not None
        or PathFinder.find_spec(package, [str(Path.cwd())]) is not None
    )


def missing_module(name: ExternalName, module: str) -> UsageError:
    """Return the error that says that a module, which the name of a model needs, does not exist."""
    return UsageError(
        f"{name.label}: no module '{module}', neither installed nor in the current folder\n"
        "external models: torchvision:NAME, timm:NAME, package.module:FUNCTION, path/to/file.py:FUNCTION"
    )


def parse_external(name: str | os.PathLike[str]) -> ExternalName | None:
    """Return what the name of an external model points to; None if it is not the name of one.

    ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``, ``path/to/file.py:factory``.

    Raises
    ------
    UsageError
        If it is a Python file without the function that makes the model, or an exported program.
    """
    text = os.fspath(name)
    if library := _IN_LIBRARY.fullmatch(text):
        return ExternalName("timm" if library["source"] == "timm" else "torchvision", **library.groupdict())
    if text.endswith(".py"):
        raise UsageError(f"{text}: say which function of the file makes the model: {text}:FUNCTION")
    if in_file := _IN_FILE.fullmatch(text):
        return ExternalName("file", **in_file.groupdict())
    if text.endswith(".pt2"):
        raise UsageError(
            f"{text}: mvkit does not open exported programs itself\nname a function of your own that does, "
            "FILE.py:FUNCTION: def FUNCTION(): return torch.export.unflatten(torch.export.load(...))"
        )
    in_module = _IN_MODULE.fullmatch(text)
    return ExternalName("module", **in_module.groupdict()) if in_module else None


def split_weights(weights: str | os.PathLike[str]) -> tuple[Path | None, str | None]:
    """Return the file and the entry of a library's weights: FILE, ENTRY=FILE, or neither (a name)."""
    path = expand(weights)
    if isinstance(weights, str) and not path.is_file():
        entry, equals, file = weights.partition("=")
        if equals and os.sep not in entry and _is_file_name(file):
            return expand(file), entry
    return (path, None) if _is_file_name(weights) else (None, None)


def split_key(weights: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the file and the key of ``FILE:key``, the weights under a key of a checkpoint; None: no key.

    A file whose name has a colon wins.
    """
    path, text = expand(weights), os.fspath(weights)
    if not path.exists():
        for cut in (index for index in range(len(text) - 2, 0, -1) if text[index] == ":"):
            file = expand(text[:cut])
            if file.is_file() or file.suffix in _WEIGHTS_SUFFIXES:
                return file, text[cut + 1 :]
    return path, None


def check_exists(weights: Path) -> None:
    """Check that the file of FILE or FILE:key is there.

    Raises
    ------
    CheckpointError
        If not.
    """
    path, _ = split_key(weights)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in _WEIGHTS_SUFFIXES)
        advice = f"one of its files: {', '.join(inside[:5])}" if inside else "a file of weights"
        raise CheckpointError(f"{path}: is a folder; give {advice}")
    if not path.is_file():
        if os.path.lexists(path):
            # A link to nothing, a pipe.
            raise CheckpointError(f"{path}: {inspect_file(path).problem}")
        raise CheckpointError(f"{path}: no such file; give the path of a .pt, .pth or .safetensors file")


def _is_file_name(weights: str | os.PathLike[str]) -> bool:
    path, _ = split_key(weights)
    return (
        not isinstance(weights, str)
        or path.suffix in _WEIGHTS_SUFFIXES
        or os.sep in weights
        or path.is_file()
    )


def is_checkpoint_path(name: str | os.PathLike[str]) -> bool:
    """Tell whether a model is given by the path of a checkpoint or run folder, and not by its name.

    A path object is; text is if it looks like a path, or is no model's name but that of a file or run folder.
    """
    if not isinstance(name, str):
        return True
    if os.sep in name or name.endswith(_CHECKPOINT_SUFFIXES) or name.startswith(("~", ".")):
        return True
    return not is_model(name) and (Path(name).is_file() or (Path(name) / LAST).is_file())


def find_checkpoint(name: str | os.PathLike[str], weights: str | os.PathLike[str] = "released") -> Path:
    """Return the path of a checkpoint that is itself the model, or of a run folder that holds one.

    Raises
    ------
    UsageError
        If there is none, or a file of weights is given beside it.
    """
    if weights not in WEIGHT_CHOICES:
        raise UsageError(
            f"{name} has weights of its own: leave out {weights}, or name the network instead of the file"
        )
    path = expand(name)
    if path.is_dir():
        if not (path / LAST).is_file():
            raise UsageError(f"{path}: no {LAST} in this folder; is it the folder of a training run?")
    elif not path.is_file():
        raise UsageError(
            f"{path}: no such file; give a checkpoint of mvkit train, a run folder, or a model's name"
        )
    else:
        check_kind(path)
    return path


def checkpoint_to_resume(resume: str) -> Path | None:
    """Return the checkpoint that a training run shall go on from; None of ``"auto"`` and ``"never"``.

    Raises
    ------
    CheckpointError
        If there is no such file.
    """
    if resume in (AUTO, NEVER):
        return None
    path = expand(resume)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint to resume from")
    return path


def check_export(model: str, target: Path, *, overwrite: bool) -> None:
    """Check a model and a path for its weights before it is read, which takes seconds.

    Raises
    ------
    UsageError
        If the model has no weights, or the path is none for them, see :func:`check_export_target`.
    """
    check_export_target(target, overwrite=overwrite)
    if is_baseline(model):
        raise UsageError(f"'{model}' has no weights to export")


def check_export_target(target: Path, *, overwrite: bool) -> None:
    """Check a path for weights before a model is read, which takes seconds.

    Raises
    ------
    UsageError
        If it exists and ``overwrite`` is False, is a folder, or is not named ``*.safetensors``.
    """
    if target.suffix != SAFETENSORS:
        raise UsageError(f"{target}: weights are written as safetensors; name the file *{SAFETENSORS}")
    check_output_path(target, overwrite=overwrite, example=f"weights{SAFETENSORS}")


def check_kind(path: Path) -> None:
    """Check by its name that a file may be one of weights.

    Raises
    ------
    CheckpointError
        If it is a text, an archive of arrays or an image; files of other names are opened to see.
    """
    kinds = {".npz": "a NumPy archive", ".npy": "a NumPy array", ".h5": "an HDF5 file", ".yaml": "a recipe"}
    kinds |= dict.fromkeys((".json", ".jsonl", ".txt", ".csv", ".md"), "a text")
    if path.name.endswith(".index.json"):
        # It names the files that hold the weights.
        return
    kinds |= dict.fromkeys((".png", ".jpg", ".svg", ".pdf"), "an image")
    if (kind := kinds.get(path.suffix.lower())) is not None:
        is_of_run = (path.parent / LAST).is_file()
        advice = f"; the run is {path.parent}" if is_of_run else ""
        raise CheckpointError(f"{path} is {kind}; weights are .pt, .pth or .safetensors files{advice}")


def weights_path(row: ModelRow, weights: str | os.PathLike[str], home: Path | None) -> Path | None:
    """Return the file that holds the weights of a model; None for random weights and for baselines.

    Raises
    ------
    UsageError
        If ``weights`` is neither a choice nor a file, or is a file for a baseline.
    CheckpointError
        If there is no such file, or no weights were released.
    """
    if isinstance(row.architecture.blueprint, Baseline):
        if weights not in WEIGHT_CHOICES:
            raise UsageError(f"'{row.name}' has no weights to load: leave out {weights}")
        return None
    if weights == "random":
        return None
    if weights != "released":
        return _given_path(weights)
    if row.released is None:
        raise CheckpointError(
            f"no released weights for '{row.name}'; released: {', '.join(RELEASED)}\n"
            + wording(
                "use random weights (--weights random) or a checkpoint of your own (--weights PATH)",
                'use random weights (weights="random") or a checkpoint of your own (weights="PATH")',
            )
        )
    path = checkpoint_path(row.released.name, home)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: the released weights of '{row.released.name}' are not on this machine\n"
            f"run: mvkit fetch checkpoints {row.released.name}"
        )
    return path


def _given_path(weights: str | os.PathLike[str]) -> Path:
    path = expand(weights)
    file, _ = split_key(path)
    if file.is_file():
        check_kind(file)
        return path
    choices = WEIGHT_CHOICES
    if isinstance(weights, str) and path.name == weights and not path.suffix:
        raise UsageError(
            f"weights '{weights}' is neither {' nor '.join(choices)} nor a file{suggest(weights, choices)}"
        )
    if os.path.lexists(file):
        check_exists(file)
    raise CheckpointError(
        f"{file}: no such file; give the path of a checkpoint, or one of: {', '.join(choices)}"
    )


REGEX_PREFIX = "re:"
_MOST_MATCHING_S = 0.5
# A dot before the bracket makes it a glob's class: `features.[0-3]`.
_CALL = re.compile(r"(?P<base>.*[^.])\[(?P<call>\d+)\]")


@dataclass(frozen=True)
class RequestedLayer:
    """One layer to record.

    Parameters
    ----------
    name
        Name of the layer as the model lists it.
    call
        Which call of the layer within one forward pass (from 0); None for all of them.
    part
        Which part of a tuple or dict output; None for all of them.
    is_named
        Whether it was asked for by name. A layer that only a glob or regular expression brought in is left
        out if it turns out to have nothing to record.
    is_only_joined
        Whether it was asked for only as a part of a joined layer.
    """

    name: str
    call: int | None = None
    part: str | None = None
    is_named: bool = field(default=True, compare=False)
    is_only_joined: bool = field(default=False, compare=False)


def match_layers(patterns: str | Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that patterns mean, in the order of ``names`` and without duplicates.

    For names that are at hand, such as those of a feature set; see :func:`requested_layers` for the patterns.

    Parameters
    ----------
    patterns
        Names, globs (``features.*``), or regular expressions after ``re:``.
    names
        All names.

    Raises
    ------
    UsageError
        If a pattern matches nothing or is not a valid regular expression.
    """
    return tuple(dict.fromkeys(layer.name for layer in requested_layers(patterns, names)))


def split_joined(
    patterns: Sequence[str], names: Iterable[str], declared: Sequence[JoinedLayer] = ()
) -> tuple[tuple[str, ...], tuple[JoinedLayer, ...]]:
    """Separate joined layers from the names and patterns of single ones.

    A joined layer is written ``NAME=a+b+c``, its parts by exact names, or named as the model declares it;
    ``"joined"`` stands for all that are declared.

    Parameters
    ----------
    patterns
        As a user gives them.
    names
        Layer names of the model.
    declared
        The model's joined layers.

    Returns
    -------
    patterns
        Those of single layers.
    joined
        Without duplicates.

    Raises
    ------
    UsageError
        If a part is no layer, a name is that of another layer or given twice, or nothing is declared.
    """
    ordered = list(names)
    of_model = {one.name: one for one in declared}
    plain: list[str] = []
    joined: list[JoinedLayer] = []
    for text in patterns:
        if text in ordered or text.startswith(REGEX_PREFIX):
            plain.append(text)
        elif text == JOINED:
            if not declared:
                raise UsageError(
                    "this model declares no joined layers; name one yourself, NAME=a+b: 'all=conv1+conv2'"
                )
            plain += [one.name for one in declared if one.name in ordered]
            joined += [one for one in declared if one.name not in ordered]
        elif text in of_model:
            joined.append(of_model[text])
        elif "=" in text:
            joined.append(_parse_joined(text, ordered))
        else:
            plain.append(text)
    distinct = tuple(dict.fromkeys(joined))
    named = [one.name for one in distinct]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"joined layer '{twice}' is given twice with different parts: name one otherwise")
    return tuple(plain), distinct


def _parse_joined(text: str, names: Sequence[str]) -> JoinedLayer:
    name, _, listed = text.partition("=")
    parts = tuple(part.strip() for part in listed.split("+"))
    if not name.strip() or not all(parts):
        raise UsageError(f"joined layer '{text}': write NAME=a+b, names of layers with + between")
    for part in parts:
        matching = _match_one(part, names)
        if not matching:
            raise unknown_name("layer", part, list(names), command=LISTING_COMMAND)
        if not matching[0].is_named:
            raise UsageError(f"joined layer '{text}': '{part}' is a pattern; give the names of its layers")
    if name.strip() in names:
        raise UsageError(f"joined layer '{text}': {name.strip()} is a layer itself; give another name")
    return JoinedLayer(name.strip(), parts)


def compose_layers(
    recorded: Sequence[str], single: Iterable[str], joined: Sequence[JoinedLayer]
) -> dict[str, tuple[str, ...]]:
    """Return every layer asked for -> the recorded ones it is made of; a joined one follows its last part.

    Parameters
    ----------
    recorded
        Names of what was recorded, in the model's order.
    single
        Which of them were asked for themselves.
    joined
        Joined layers.

    Raises
    ------
    UsageError
        If a part was recorded under several other names, as a layer is that runs several times.
    """
    position = {name: index for index, name in enumerate(recorded)}
    composed: dict[str, tuple[str, ...]] = {name: (name,) for name in single}
    for one in joined:
        for part in one.parts:
            if part not in position:
                several = [name for name in recorded if name.startswith((f"{part}[", f"{part}:"))]
                raise UsageError(
                    f"joined layer '{one.name}': {part} gives several outputs; name one: {', '.join(several)}"
                    if several
                    else f"joined layer '{one.name}': {part} cannot be recorded"
                )
        composed[one.name] = one.parts
    return dict(sorted(composed.items(), key=lambda item: max(position[part] for part in item[1])))


def requested_layers(
    patterns: str | Sequence[str], names: Iterable[str], joined: Sequence[JoinedLayer] = ()
) -> tuple[RequestedLayer, ...]:
    """Resolve patterns to layers, in the model's order and without duplicates.

    A pattern is an exact name, a glob (``features.*``; ``*`` also crosses dots, ``?`` is one character,
    ``[ab]`` one of several) or a regular expression after ``re:`` that matches the whole name. An exact name
    or glob may end with ``[k]`` for the k-th call of a layer that runs several times in one pass, and with
    ``:part`` for one entry of a tuple or dict output.

    Parameters
    ----------
    patterns
        One pattern or several.
    names
        Layer names of the model, in its order.
    joined
        Layers made of several, whose parts are requested too, see :func:`split_joined`.

    Raises
    ------
    UsageError
        If a pattern matches nothing (the message suggests a name and lists the valid ones), is empty, or is
        not a valid regular expression.
    """
    ordered = list(names)
    texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not texts and not joined:
        raise UsageError("no layers asked for: give at least one name or pattern")
    matches: list[RequestedLayer] = []
    for text in texts:
        matching = _match_one(text, ordered)
        if not matching:
            words = text.split()
            if len(words) > 1 and all(_match_one(word, ordered) for word in words):
                raise UsageError(f"unknown layer '{text}': separate layers by commas, {','.join(words)}")
            raise unknown_name("layer", text, ordered, command=LISTING_COMMAND)
        matches += matching
    parts = [part for one in joined for part in one.parts]
    matches += [replace(layer, is_only_joined=True) for part in parts for layer in _match_one(part, ordered)]
    # Named ones first: of two equal entries a dict keeps the first.
    distinct = dict.fromkeys(sorted(matches, key=lambda layer: (layer.is_only_joined, not layer.is_named)))
    position = {name: index for index, name in enumerate(ordered)}
    return tuple(sorted(distinct, key=lambda layer: position[layer.name]))


def _match_one(pattern: str, names: Sequence[str]) -> list[RequestedLayer]:
    if pattern in names:
        # First, since a name may itself hold ':' or '[' ("decoder:VISp").
        return [RequestedLayer(pattern)]
    if pattern.startswith(REGEX_PREFIX):
        expression = _compile(pattern)
        endless = UsageError(
            f"layer pattern '{pattern}' takes too long: repeats in a repeat, as in (a+)+, are tried in every "
            "way\nwrite it with one repeat, or use a glob"
        )
        with time_limit(_MOST_MATCHING_S, endless):
            return [RequestedLayer(name, is_named=False) for name in names if expression.fullmatch(name)]
    readings = [reading for reading in _readings(pattern) if reading != RequestedLayer(pattern)]
    for reading in readings:
        if reading.name in names:
            # `relu[0]` means the first call of `relu`, although a glob would read it as "relu0".
            return [reading]
    for reading in [RequestedLayer(pattern), *readings]:
        matching = [
            replace(reading, name=name, is_named=False) for name in names if fnmatchcase(name, reading.name)
        ]
        if matching:
            return matching
    return []


def _readings(pattern: str) -> Iterator[RequestedLayer]:
    """Split ``base[call]:part`` in every way that is possible, the longest base first."""
    pieces = pattern.split(":")
    for n_pieces in range(len(pieces), 0, -1):
        base, part = ":".join(pieces[:n_pieces]), ":".join(pieces[n_pieces:]) or None
        indexed = _CALL.fullmatch(base)
        if indexed is not None:
            yield RequestedLayer(indexed["base"], int(indexed["call"]), part)
        yield RequestedLayer(base, None, part)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix(REGEX_PREFIX))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"layer pattern '{pattern}' is not a valid regular expression: {error}") from error
