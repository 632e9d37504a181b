"""Layers for scoring: of a model, whose features are extracted only where scores are not cached; or given."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.cache import LayerKey, Store, fingerprint_of, joined_key
from mvkit.errors import DataError, UsageError, wording
from mvkit.files import digest_of
from mvkit.machine import Resources, choose_device, worker_number
from mvkit.paths import cache_dir, scratch_dir
from mvkit.pipeline.request import dataset_context

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from mvkit.features import LayerInfo
    from mvkit.features.stimuli import Stimuli
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.pipeline.cached import CoordinatesCache, DiskScoreCache
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.gram import GramFunction
    from mvkit.scoring.run import LayerSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedLayers:
    """Layers to score, of a network that has seen the first batch of images only.

    Attributes
    ----------
    source
        The layers.
    context
        Model, weights and preprocessing.
    keys
        Layer -> key of its results in the cache; None: nothing can be cached.
    store
        The cache, or None.
    infos, images_per_batch
        Layer, or part of one -> its shape, and images of a batch; empty and 0 for features that are given.
    fit_device
        See :func:`fit_device`.
    """

    source: LayerSource
    context: Mapping[str, object]
    keys: Mapping[str, LayerKey] | None = None
    store: Store | None = None
    infos: Mapping[str, LayerInfo] = field(default_factory=dict)
    images_per_batch: int = 0
    fit_device: str | None = None

    def score_cache(self, settings: ScoreSettings) -> DiskScoreCache | None:
        """Return the cache of scores by these settings, or None."""
        from mvkit.pipeline.cached import DiskScoreCache

        if self.store is None or self.keys is None:
            return None
        return DiskScoreCache(self.store, self.keys, settings, self.fit_device)

    def coordinates_cache(self, settings: ScoreSettings) -> CoordinatesCache | None:
        """Return the cache of principal coordinates, or None if the mapping does not work from them."""
        from mvkit.pipeline.cached import CoordinatesCache
        from mvkit.scoring.maps import MAPPINGS

        if self.store is None or self.keys is None or not MAPPINGS[settings.mapping].from_coordinates:
            return None
        return CoordinatesCache(self.store, self.keys)


def score_source(  # noqa: PLR0913
    source: object,
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
    resources: Resources,
    *,
    layers: Sequence[str] | str | None = None,
    label: str | None = None,
    shuffle_seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score layers against some of a dataset's recordings; cached scores are not computed again.

    Parameters
    ----------
    source, layers, shuffle_seed
        As for :func:`open_layers`.
    dataset, recordings
        Stimuli and provenance; responses.
    settings, resources
        The protocol, and where it is carried out.
    label
        Name of the model in results; None: its own, see :func:`label_model`.
    progress
        Called with (done, total) pairs of layer and recording.

    Raises
    ------
    UsageError, DataError, FitError
        As :func:`open_layers` and :func:`mvkit.scoring.run.score_layers`.
    """
    from mvkit.scoring.run import score_layers

    opened = open_layers(source, dataset, layers, settings, resources, shuffle_seed=shuffle_seed)
    name = {} if label is None else {"model": label}
    return score_layers(
        opened.source,
        recordings,
        settings,
        n_jobs=fit_workers(resources, opened.fit_device),
        fit_device=opened.fit_device,
        progress=progress,
        context={**opened.context, **name, **dataset_context(dataset)},
        cache=opened.score_cache(settings),
    )


def fit_device(resources: Resources, settings: ScoreSettings) -> str | None:
    """Return the device of torch on which fits are made; None: compiled code on the processor.

    A GPU that is asked for by name makes the fits that torch can make
    (:func:`mvkit.scoring.maps.fits_on_device`); one that ``"auto"`` finds makes none.

    Raises
    ------
    UsageError
        If the jobs are sent to a cluster, whose machines may have no GPU.
    """
    from mvkit.scoring.maps import fits_on_device

    if not resources.device.startswith("cuda") or not fits_on_device(settings):
        return None
    if resources.dask is not None:
        raise UsageError(
            f"{wording('--device ', 'device=')}{resources.device}: with pls_stopping=converged fits are made "
            f"on this machine's GPU, and {wording('--dask', 'dask')} sends them elsewhere\n"
            f"leave one out; {wording('--device auto', 'device=auto')} only extracts features on the GPU"
        )
    return resources.device


def fit_workers(resources: Resources, device: str | None) -> int:
    """Return the worker processes of a run: one if fits are made on a device, unless more shall share it."""
    return worker_number(resources) if device is None else resources.n_jobs or 1


def label_model(name: str, weights_source: str) -> str:
    """Return a model's name in results; random weights are part of it: ``NAME (random, seed 0)``."""
    return f"{name} ({weights_source})" if weights_source.startswith("random, seed ") else name


def weights_source(model: nn.Module) -> str:
    """Return where a model's weights come from: an address, a file, a training run, a seed; or ""."""
    return str(getattr(getattr(model, "provenance", None), "source", ""))


def open_layers(
    source: object,
    dataset: NeuralDataset,
    patterns: Sequence[str] | str | None,
    settings: ScoreSettings,
    resources: Resources,
    *,
    shuffle_seed: int | None = None,
) -> OpenedLayers:
    """Find out which layers a model has, or take features that are given.

    Parameters
    ----------
    source
        A model, the name or path of one, a feature set, or a mapping from layer to array.
    dataset
        Its stimuli are what the model sees.
    patterns
        Names, patterns or ``"published"``; None means the model's default list, or every layer given.
    settings
        The protocol.
    resources
        Device, cache and the like.
    shuffle_seed
        Seed of the control in which every layer has as many features as it has, drawn at random without
        replacement from those of all these layers; None: layers as they are.

    Raises
    ------
    UsageError
        If ``source`` is none of these, or a layer is unknown.
    DataError
        If features given do not belong to as many images as the dataset has, or images cannot be read.
    """
    from mvkit.pipeline.cached import with_cached_coordinates

    device = fit_device(resources, settings)
    if isinstance(source, Mapping):
        opened = _open_features(source, dataset, patterns, resources)
    else:
        # Features that are given need no torch.
        from torch import nn

        from mvkit.features.stimuli import open_stimuli
        from mvkit.models import load_model
        from mvkit.models.external import unwrap

        network = load_model(source, home=resources.home) if isinstance(source, str | Path) else source
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"cannot score a {type(source).__name__}: give a model, a name, features, or a mapping of "
                "arrays"
            )
        here = replace(resources, device=str(choose_device(resources.device)))
        check_unseen_images(unwrap(network), dataset, settings)
        opened = open_network_layers(network, open_stimuli(dataset), patterns, here)
    if shuffle_seed is not None:
        opened = _shuffle_features(opened, shuffle_seed)
    opened = replace(opened, fit_device=device)
    coordinates = opened.coordinates_cache(settings)
    if coordinates is None:
        return opened
    return replace(opened, source=with_cached_coordinates(opened.source, coordinates))


def check_unseen_images(network: nn.Module, dataset: NeuralDataset, settings: ScoreSettings) -> None:
    """Check that a network was trained on none of the images that it is scored on.

    Images are told by their pixels. Training images that are scored on purpose (``scored_images="train"``)
    are let through.

    Raises
    ------
    UsageError
        If it was; the message has the settings of the split that it was trained on.
    """
    run: Mapping[str, Any] = getattr(getattr(network, "provenance", None), "training_run", {})
    seen = set(run.get("images", {}).get("image_digests", ()))
    if not seen or settings.scored_images == "train":
        return
    import numpy as np

    from mvkit.images.loader import image_digest
    from mvkit.scoring.protocol import splits_of

    trained = np.array([image_digest(image) in seen for image in dataset.stimuli])
    for number, split in enumerate(splits_of(dataset.n_images, settings)):
        n_seen = int(trained[split.test].sum())
        if n_seen:
            raise UsageError(
                f"{getattr(network, 'name', 'this network')} was trained on {n_seen} of the "
                f"{len(split.test)} test images of split {number}\n"
                f"score the split it was trained on: {_settings_of_split(run)}"
            )


def _settings_of_split(run: Mapping[str, Any]) -> str:
    data = json.loads(str(run["recipe"]))["data"]["neural"]
    chosen = {"n_splits": 1, "train_fraction": data["train_fraction"], "split_seed": data["split_seed"]}
    return " ".join(f"{wording('--set ', '')}{key}={value}" for key, value in chosen.items())


def _shuffle_features(opened: OpenedLayers, seed: int) -> OpenedLayers:
    """Give every layer features drawn at random from those of all layers."""
    from mvkit.scoring.maps import draw_across_layers

    source = opened.source
    if source.joined:
        raise UsageError("features are shuffled across single layers: leave joined layers out")

    @contextmanager
    def open_shuffled(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        with source.open(source.names) as features:
            drawn = draw_across_layers(dict(features), seed)
            yield {name: drawn[name] for name in names}

    keys = opened.keys
    if keys is not None:
        together = joined_key([keys[name] for name in source.names])
        keys = {
            name: LayerKey(
                digest_of({"shuffled": together.key, "seed": seed, "layer": number}), together.fingerprint
            )
            for number, name in enumerate(source.names)
        }
    context = {**opened.context, "shuffle_seed": seed}
    return replace(opened, source=replace(source, open=open_shuffled), keys=keys, context=context)


def _store(resources: Resources) -> Store | None:
    return Store(cache_dir(resources.home)) if resources.cache else None


def open_network_layers(
    model: nn.Module,
    stimuli: Stimuli,
    patterns: Sequence[str] | str | None,
    resources: Resources,
) -> OpenedLayers:
    """Show a first batch of images to a network, and find out which layers it has.

    Parameters
    ----------
    model
        The network.
    stimuli
        The images.
    patterns
        Names, patterns, joined layers or ``"published"``; None means the model's default list.
    resources
        Device (one of torch), batch size, scratch folder and cache.

    Raises
    ------
    UsageError
        If a layer is unknown.
    DataError
        If images cannot be read.
    """
    from mvkit.features.extraction import ForwardPass, layer_keys
    from mvkit.features.stimuli import describe_provenance
    from mvkit.models.base import VisionModel
    from mvkit.models.external import unwrap
    from mvkit.scoring.run import LayerSource

    network = unwrap(model)
    forward_pass = ForwardPass(
        network,
        stimuli,
        patterns,
        batch_size=resources.batch_size,
        device=resources.device,
    )
    first = forward_pass.first_batch()
    # Empty where weights cannot be read.
    keys = (layer_keys(forward_pass) or None) if resources.cache else None
    provenance = describe_provenance(network, forward_pass.stimuli, "")
    scratch = resources.scratch or scratch_dir(resources.home)

    def features(names: Sequence[str]) -> AbstractContextManager[Mapping[str, Any]]:
        return forward_pass.features(names, scratch=scratch)

    source = LayerSource(
        tuple(first.composition), features, gram=_products(resources.device), joined=first.joined
    )
    context = {
        "model": label_model(provenance.model_name, weights_source(network)),
        "weights_id": provenance.weights_id,
        "preprocessing": provenance.preprocessing,
        "weights_source": weights_source(network),
    }
    if isinstance(network, VisionModel) and network.describe():
        context["network"] = f"{provenance.model_name}: {network.describe()}"
    return OpenedLayers(
        source,
        {**context, **_describe_joined(source)},
        _with_joined_keys(keys, source),
        _store(resources),
        infos={**first.layers, **first.composed_infos()},
        images_per_batch=forward_pass.images_per_batch,
    )


@contextmanager
def layer_features(source: LayerSource, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Hold the features of some layers for the length of a block, those of joined layers side by side.

    Parameters
    ----------
    source
        The layers.
    names
        Those whose features are wanted.

    Yields
    ------
    mapping
        Layer -> (n_images, n_features), in memory or on disk.
    """
    from mvkit.scoring.maps import JoinedFeatures

    composition = source.composition(names)
    parts = list(dict.fromkeys(part for of in composition.values() for part in of))
    with source.open(parts) as features:
        yield {
            name: features[of[0]] if len(of) == 1 else JoinedFeatures([features[part] for part in of])
            for name, of in composition.items()
        }


def _describe_joined(source: LayerSource) -> dict[str, object]:
    """Return the entry of a result's context that says what joined layers are made of; none without any."""
    joined = {name: list(parts) for name, parts in source.joined.items()}
    return {"joined_layers": joined} if joined else {}


def _with_joined_keys(
    keys: Mapping[str, LayerKey] | None, source: LayerSource
) -> Mapping[str, LayerKey] | None:
    """Return keys of single layers, and of joined ones those made from their parts'."""
    if keys is None:
        return None
    joined = {name: joined_key([keys[part] for part in parts]) for name, parts in source.joined.items()}
    return {**keys, **joined}


def _products(device: str) -> GramFunction | None:
    """Return a function that forms Gram matrices on a GPU; None elsewhere, where numpy does."""
    import torch

    from mvkit.features.extraction import DeviceProducts

    # Apple's devices have no float64.
    return DeviceProducts(device) if torch.device(device).type == "cuda" else None


def _open_features(
    features: Mapping[str, Any],
    dataset: NeuralDataset,
    patterns: Sequence[str] | str | None,
    resources: Resources,
) -> OpenedLayers:
    from mvkit.features import FeatureSet
    from mvkit.scoring.run import LayerSource

    context: dict[str, object] = {"model": getattr(features, "model_name", "features")}
    if isinstance(features, FeatureSet):
        context |= {"weights_id": features.weights_id, "preprocessing": features.preprocessing}
    composition = _pick_layers(features, patterns)
    arrays = _read_arrays(features, composition, n_images=len(dataset.stimuli))

    @contextmanager
    def chosen(names: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        yield {name: arrays[name] for name in names}

    joined = {name: parts for name, parts in composition.items() if parts != (name,)}
    source = LayerSource(tuple(composition), chosen, joined=joined)
    keys = {name: _content_key(values) for name, values in arrays.items()} if resources.cache else None
    return OpenedLayers(
        source, {**context, **_describe_joined(source)}, _with_joined_keys(keys, source), _store(resources)
    )


def _content_key(values: NDArray[Any]) -> LayerKey:
    """Return the key of features that are given: a digest of them."""
    import numpy as np

    state = hashlib.sha256(np.ascontiguousarray(values).data)
    key = digest_of({"content": state.hexdigest(), "shape": list(values.shape), "dtype": values.dtype.str})
    return LayerKey(key, fingerprint_of(values[:1]))


def _pick_layers(
    features: Mapping[str, NDArray[Any]], layers: Sequence[str] | str | None
) -> dict[str, tuple[str, ...]]:
    """Return layer to score -> the layers given that it is made of: itself, or the parts of a joined one."""
    from mvkit.models.names import PUBLISHED, compose_layers, match_layers, split_joined

    patterns = [layers] if isinstance(layers, str) else layers
    if patterns and PUBLISHED in patterns and PUBLISHED not in features:
        raise UsageError(
            f"layers '{PUBLISHED}' are a list of the model, and features that are given have none: name some "
            "of their layers, leave layers out for all of them, or score the model"
        )
    names = list(features)
    if patterns is None:
        return {name: (name,) for name in names}
    single, joined = split_joined(patterns, names)
    return compose_layers(names, match_layers(single, names) if single else (), joined)


def _read_arrays(
    features: Mapping[str, NDArray[Any]], composition: Mapping[str, Sequence[str]], *, n_images: int
) -> dict[str, NDArray[Any]]:
    """Return the features of all layers and parts, (n_images, n_features) each."""
    picked, shapes = {}, []
    for name in dict.fromkeys(part for parts in composition.values() for part in parts):
        values = _feature_array(features[name], f"features of layer '{name}'")
        if values.ndim < 2 or len(values) != n_images:
            raise DataError(
                f"features of layer '{name}': shape {values.shape}, but the dataset has {n_images} images: "
                "give (n_images, n_features), rows in the order of its stimuli"
            )
        picked[name] = values.reshape(n_images, -1)
        if values.ndim > 2:
            shapes.append(f"{name} {values.shape} to {picked[name].shape}")
    if shapes:
        more = f" and {len(shapes) - 1} more layers" if len(shapes) > 1 else ""
        log.warning(
            "features are flattened: layer %s%s; a unit is predicted from all of them", shapes[0], more
        )
    return picked


def _feature_array(given: Any, what: str) -> NDArray[Any]:
    """Return features as real numbers in the machine's byte order, decoded where attributes ask for it.

    Raises
    ------
    DataError
        If some are masked or missing, or they are no real numbers.
    """
    import numpy as np

    from mvkit.neural.netcdf import PACKING_ATTRIBUTES, packing_of

    # A variable of an open file (h5py, h5netcdf, undecoded xarray) says how its numbers are packed.
    attributes = getattr(given, "attrs", None)
    is_packed = attributes is not None and any(name in attributes for name in PACKING_ATTRIBUTES)
    packing = packing_of(given, what) if is_packed and hasattr(given, "dtype") else None
    if np.ma.is_masked(given):
        raise DataError(f"{what}: some values are masked; fill them, or leave the layer out")
    is_tensor = hasattr(given, "detach")
    if hasattr(given, "toarray") or (is_tensor and "sparse" in str(given.layout)):
        dense = "to_dense" if is_tensor else "toarray"
        raise DataError(f"{what}: a sparse {type(given).__name__}; give an array, as its {dense}() makes it")
    try:
        if is_tensor:  # perhaps with a gradient or on a GPU
            given = given.detach().cpu()
            # Types that NumPy lacks; float32 holds each of their values.
            given = given.float() if str(given.dtype).startswith(("torch.bfloat", "torch.float8")) else given
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what}: no array can be made of {type(given).__name__} ({error})") from error
    if values.dtype.kind not in "iufb":
        raise DataError(f"{what}: {values.dtype} are no real numbers; give floats or integers")
    if packing is not None:
        values = packing.decode(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
