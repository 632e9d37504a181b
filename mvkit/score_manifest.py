"""What shards of one run have in common, as a file that each of them would write alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.atomic import write_text
from mvkit.errors import DataError, UsageError
from mvkit.jsonable import digest_of, plain, shortened
from mvkit.resources import Resources
from mvkit.score_request import ScoreRequest
from mvkit.store.entries import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTS = "parts"
_PATTERN = "run-*.json"
_TUPLES = ("models", "layers", "areas", "against")
#: Fields of a request that a merge needs again. Machine and preprocessing have done their part by then.
_OF_REQUEST = (
    "models",
    "layers",
    "areas",
    "dataset",
    "weights",
    "seed",
    "selection",
    "thresholds",
    "against",
    "extrapolate",
)
#: Characters of a value that an error shows, and differences that it names.
_LONGEST, _MOST = 40, 5


@dataclass(frozen=True)
class Units:
    """Whose scores a recording has.

    Attributes
    ----------
    area, specimen
        Area and animal.
    unit_ids
        int64 (n_units,).
    """

    area: str
    specimen: int
    unit_ids: NDArray[Any]


@dataclass(frozen=True)
class ScoredLayer:
    """A layer of a sharded run.

    Attributes
    ----------
    model, name
        Model as the user named it, and layer.
    keys
        Per recording, under what its scores lie.
    probe
        What the layer gave for the first image where the first shard ran.
    """

    model: str
    name: str
    keys: tuple[str, ...]
    probe: tuple[float, ...]


@dataclass(frozen=True)
class Manifest:
    """A run in shards.

    Attributes
    ----------
    request
        What was asked for, as plain JSON values.
    settings
        Every field of the protocol.
    recordings
        Areas, animals and units of what layers are compared with.
    layers
        Layers of all models, in order.
    contexts
        Model -> what its scores note.
    software
        Digest of mvkit's scoring sources, and versions.
    n_shards
        Of how many shards the first one was.
    """

    request: Mapping[str, Any]
    settings: Mapping[str, Any]
    recordings: tuple[Units, ...]
    layers: tuple[ScoredLayer, ...]
    contexts: Mapping[str, Mapping[str, Any]]
    software: Mapping[str, Any]
    n_shards: int

    def pairs(self) -> Iterator[tuple[ScoredLayer, int]]:
        """Yield layer and place of the recording of every pair, recordings of one layer after another."""
        for layer in self.layers:
            for place in range(len(self.recordings)):
                yield layer, place

    def identity(self) -> dict[str, Any]:
        """Return what all shards of a run share, whichever machine they ran on, in words of the user."""
        request = {
            name: ", ".join(value) if isinstance(value, list) else value
            for name, value in self.request.items()
            if name != "dataset"
        }
        digests = {name: context.get("responses_sha256") for name, context in self.contexts.items()}
        layers = {f"{layer.model}: {layer.name}": list(layer.keys) for layer in self.layers}
        return {**request, **self.settings, **self.software, "responses_sha256": digests, **layers}

    def digest(self) -> str:
        """Return the sha256 (hex) of :meth:`identity`."""
        return digest_of(self.identity())

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return {
            "request": dict(self.request),
            "settings": dict(self.settings),
            "recordings": [
                {"area": units.area, "specimen": int(units.specimen), "unit_ids": plain(units.unit_ids)}
                for units in self.recordings
            ],
            "layers": [
                {"model": layer.model, "name": layer.name, "keys": layer.keys, "probe": layer.probe}
                for layer in self.layers
            ],
            "contexts": {name: plain(context) for name, context in self.contexts.items()},
            "software": dict(self.software),
            "n_shards": self.n_shards,
        }


def parts_of(folder: Path) -> Store:
    """Return where the shards in a folder put their results."""
    return Store(folder / _PARTS)


def asked_for(request: ScoreRequest) -> dict[str, Any]:
    """Return what a merge needs of a request, as plain JSON values."""
    found: dict[str, Any] = plain({name: getattr(request, name) for name in _OF_REQUEST})
    return {**found, "thresholds": _given(found["thresholds"])}


def request_again(manifest: Manifest, request: ScoreRequest) -> ScoreRequest:
    """Return the request of a run with the machine of another request.

    Raises
    ------
    UsageError
        If that other request asks for anything else than its shards were asked for.
    """
    given = replace(
        request,
        settings=_given(request.settings),
        thresholds=_given(request.thresholds),
        inputs=request.inputs if request.inputs and request.inputs.given else None,
        resources=Resources(),
    )
    if list(given.models) not in ([], manifest.request["models"]) or replace(
        given, models=()
    ) != ScoreRequest(()):
        raise UsageError(
            "--merge: models, protocol and selection are those of the shards "
            f"({' '.join(manifest.request['models'])}); give no others"
        )
    fields: dict[str, Any] = {
        name: tuple(value) if name in _TUPLES and value is not None else value
        for name, value in manifest.request.items()
    }
    fields["against"] = tuple(Path(folder) for folder in fields["against"])
    return ScoreRequest(**fields, resources=request.resources)


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def join_run(manifest: Manifest, folder: Path) -> Manifest:
    """Put the manifest of a shard into a folder, unless another shard has; return the one that counts.

    Raises
    ------
    UsageError
        If the folder belongs to another run, naming what differs.
    DataError
        If a layer gives something else here than where the first shard ran.
    """
    for path in sorted(folder.glob(_PATTERN)):
        _refuse_other(read_manifest(path), manifest, folder)
    target = folder / f"run-{manifest.digest()[:16]}.json"
    if not target.exists():
        write_text(target, json.dumps(manifest.to_json(), indent=1) + "\n")
        return manifest
    first = read_manifest(target)
    for there, here in zip(first.layers, manifest.layers, strict=True):
        check_probe(there, here.probe)
    return first


def find_run(folder: Path) -> Manifest:
    """Return the manifest of the one run in a folder.

    Raises
    ------
    DataError
        If there is none, or it is damaged.
    UsageError
        If there are two, naming what differs.
    """
    found = sorted(folder.glob(_PATTERN))
    if not found:
        raise DataError(f"{folder}: no shards here; 'mvkit score MODEL --shard 1/2 --out DIR' makes them")
    first = read_manifest(found[0])
    for path in found[1:]:
        _refuse_other(first, read_manifest(path), folder)
    return first


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    DataError
        If it is damaged.
    """
    import numpy as np

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recordings = tuple(
            Units(units["area"], int(units["specimen"]), np.array(units["unit_ids"], dtype=np.int64))
            for units in document.pop("recordings")
        )
        layers = tuple(
            ScoredLayer(layer["model"], layer["name"], tuple(layer["keys"]), tuple(layer["probe"]))
            for layer in document.pop("layers")
        )
        return Manifest(**document, recordings=recordings, layers=layers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run a shard again") from error


def check_probe(layer: ScoredLayer, probe: Sequence[float] | NDArray[Any]) -> None:
    """Refuse results of a layer that gives something else than where the first shard ran.

    Raises
    ------
    DataError
        With the layer's name.
    """
    import numpy as np

    from mvkit.store.probes import probes_agree

    if not probes_agree(np.asarray(layer.probe, dtype=np.float64), np.asarray(probe, dtype=np.float64)):
        raise DataError(
            f"layer '{layer.name}' of {layer.model}: shards disagree about what it gives for the first "
            "image, so that their scores cannot be put together; compare the machines they ran on"
        )


def _refuse_other(there: Manifest, here: Manifest, folder: Path) -> None:
    first, second = there.identity(), here.identity()
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if not names:
        return
    told = [
        f"{name}: {shortened(first[name], _LONGEST)} there, {shortened(second[name], _LONGEST)} here"
        for name in names
        if name in first and name in second and not isinstance(first[name], list)
    ]
    # Keys of layers differ with everything else; they say something where nothing else does.
    layers = [name for name in names if isinstance({**first, **second}[name], list)]
    told = told or [f"layer '{name}': other weights, code, preprocessing or images" for name in layers]
    more = f"; and {len(told) - _MOST} more" if len(told) > _MOST else ""
    raise UsageError(
        f"{folder}: holds shards of another run; give another folder\n{'; '.join(told[:_MOST])}{more}"
    )
