"""Brain-Score: models of mvkit as its activations and brain models, recordings as a benchmark of its kind.

Needs ``brainscore_core``, whose version 2.5 wants numpy 1 and an old xarray: give it an environment of its
own (``pip install '.[brainscore]'`` in a checkout, without the constraints). ``brainscore_vision``, whose
``BrainModel`` and ``ActivationsExtractorHelper`` these classes stand in for, is not on PyPI; their interfaces
are followed as its sources state them, and nothing here imports it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, MissingPackageError, UsageError, unknown_name

try:
    from brainscore_core.benchmarks import BenchmarkBase
    from brainscore_core.metrics import Score
    from brainscore_core.supported_data_standards.brainio.assemblies import (
        NeuroidAssembly,
        NeuronRecordingAssembly,
    )
    from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet
except ImportError as _error:
    raise MissingPackageError(
        f"mvkit.brainscore needs brainscore_core, which is not usable here ({_error})\n"
        "in a checkout, in an environment of its own: pip install '.[brainscore]'"
    ) from _error

if TYPE_CHECKING:
    from torch import nn

    from mvkit.neural import NeuralDataset

#: Layer -> float32 (n_images, ...), not flattened.
Activations = OrderedDict[str, NDArray[np.float32]]
Hook = Callable[[Any], Any]

#: Names of the axes of a layer's output, by their number, as in Brain-Score; others have none.
_AXES: Mapping[int, tuple[str, ...]] = {
    1: ("channel",),
    2: ("channel", "embedding"),
    3: ("channel", "channel_x", "channel_y"),
}

#: When scenes are on, in milliseconds: the time bin of :class:`NeuralBenchmark`.
TIME_BIN_MS = (0, 250)


class ActivationsModel:
    """A network of mvkit as what Brain-Score calls an activations model (``activations_model``).

    It is called with images and layers like ``PytorchWrapper`` of ``brainscore_vision``, and has what
    ``ModelCommitment`` and ``LayerMappedModel`` ask of that.

    Parameters
    ----------
    model
        What :func:`mvkit.load_model` takes, or a network with ``.preprocess``.
    weights, seed
        As for :func:`mvkit.load_model`; not for a network that is given.
    identifier
        Its name in Brain-Score; None: the model's, which says so if weights are random.
    batch_size
        Images per forward pass; None: by their size.
    device
        Where to compute: "cpu", "cuda", "mps", ...

    Raises
    ------
    UsageError, CheckpointError
        As :func:`mvkit.load_model`.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        *,
        weights: str | Path = "released",
        seed: int | None = None,
        identifier: str | None = None,
        batch_size: int | None = None,
        device: str = "cpu",
    ) -> None:
        from mvkit.models import load_model
        from mvkit.pipeline.layers import label_model, weights_source

        if isinstance(model, str | Path):
            model = load_model(model, weights, seed)
        self.model = model
        name = str(getattr(model, "name", type(model).__name__))
        self.identifier = identifier or label_model(name, weights_source(model))
        self.batch_size, self.device = batch_size, device
        self._stimulus_set_hooks: dict[int, Hook] = {}
        self._batch_activations_hooks: dict[int, Hook] = {}
        self._visual_degrees: float | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that are taken if none are named."""
        return tuple(getattr(self.model, "layers", ()))

    @property
    def _extractor(self) -> ActivationsModel:
        # Where brainscore_vision looks for hooks and tells the visual degrees.
        return self

    def set_visual_degrees(self, visual_degrees: float) -> None:
        """Take note of the visual degrees of a ``ModelCommitment``; features do not depend on them."""
        self._visual_degrees = visual_degrees

    def __call__(
        self,
        stimuli: StimulusSet | Sequence[str | Path],
        layers: Sequence[str] | None = None,
        stimuli_identifier: str | Literal[False] | None = None,
        number_of_trials: int = 1,
        *,
        require_variance: bool = False,
    ) -> NeuroidAssembly:
        """Show images and return the features of layers.

        Parameters
        ----------
        stimuli
            A ``StimulusSet``, or paths of image files.
        layers
            Names or patterns as for :func:`mvkit.extract`; None: the model's default list.
        stimuli_identifier
            Not used: nothing is stored.
        number_of_trials
            Not used: every trial gives the same.
        require_variance
            Whether trials must differ; refused.

        Returns
        -------
        NeuroidAssembly
            float32 (presentation, neuroid). Presentations carry ``stimulus_path``, ``stimulus_id`` (of a file
            its path) and the columns of a ``StimulusSet``; neuroids ``model``, ``layer``, ``neuroid_num``,
            ``neuroid_id`` and the indices ``channel``, ``channel_x``, ``channel_y`` (NaN where a layer has no
            such axis).

        Raises
        ------
        UsageError
            An unknown layer, or ``require_variance``.
        DataError
            An image cannot be read.
        """
        of = self.from_stimulus_set if isinstance(stimuli, StimulusSet) else self.from_paths
        return of(stimuli, layers, stimuli_identifier, require_variance=require_variance)

    def from_stimulus_set(
        self,
        stimulus_set: StimulusSet,
        layers: Sequence[str] | None = None,
        stimuli_identifier: str | Literal[False] | None = None,
        *,
        require_variance: bool = False,
    ) -> NeuroidAssembly:
        """Show a ``StimulusSet``; see :meth:`__call__`."""
        for hook in tuple(self._stimulus_set_hooks.values()):
            stimulus_set = hook(stimulus_set)
        paths = [str(stimulus_set.get_stimulus(one)) for one in stimulus_set["stimulus_id"]]
        assembly = self.from_paths(paths, layers, stimuli_identifier, require_variance=require_variance)
        columns = {
            str(name): ("presentation", stimulus_set[name].to_numpy()) for name in stimulus_set.columns
        }
        return NeuroidAssembly(
            assembly.values, coords={**_coordinates(assembly), **columns}, dims=assembly.dims
        )

    def from_paths(
        self,
        stimuli_paths: Sequence[str | Path],
        layers: Sequence[str] | None = None,
        stimuli_identifier: str | Literal[False] | None = None,
        *,
        require_variance: bool = False,
    ) -> NeuroidAssembly:
        """Show image files, each once however often it is named; see :meth:`__call__`."""
        from mvkit.features import extract
        from mvkit.features.stimuli import FolderStimuli

        del stimuli_identifier
        if require_variance:
            raise UsageError(
                f"{self.identifier}: gives the same features in every trial; leave out require_variance=True"
            )
        paths = [str(path) for path in stimuli_paths]
        if not paths:
            raise UsageError(f"{self.identifier}: no images to show")
        distinct = tuple(dict.fromkeys(paths))
        stimuli = FolderStimuli(tuple(map(Path, distinct)), "brainscore")
        features = extract(
            self.model,
            stimuli,
            None if layers is None else list(layers),
            batch_size=self.batch_size,
            device=self.device,
        )
        activations: Activations = OrderedDict(
            (layer, features[layer].reshape(len(distinct), *features.shape_of(layer))) for layer in features
        )
        for hook in tuple(self._batch_activations_hooks.values()):
            activations = hook(activations)
        rows = [distinct.index(path) for path in paths] if len(distinct) < len(paths) else slice(None)
        return _assemble({name: values[rows] for name, values in activations.items()}, paths, self.identifier)

    def register_batch_activations_hook(self, hook: Hook) -> HookHandle:
        """Have ``hook(activations) -> activations`` called with all features: layer -> (n_images, ...)."""
        return HookHandle(self._batch_activations_hooks, hook)

    def register_stimulus_set_hook(self, hook: Hook) -> HookHandle:
        """Have ``hook(stimulus_set) -> stimulus_set`` called before a ``StimulusSet`` is shown."""
        return HookHandle(self._stimulus_set_hooks, hook)


class HookHandle:
    """A registered hook, which can be taken away for a while or for good."""

    def __init__(self, hooks: dict[int, Hook], hook: Hook) -> None:
        self._hooks, self._hook = hooks, hook
        self.enable()

    def enable(self) -> None:
        """Have the hook called again."""
        self._hooks[id(self)] = self._hook

    def disable(self) -> None:
        """Have the hook not called until :meth:`enable`."""
        self._hooks.pop(id(self), None)

    def remove(self) -> None:
        """Have the hook not called any more."""
        self.disable()


class AreaModel:
    """A network with a layer for each visual area: Brain-Score's ``BrainModel``, to be scored by benchmarks.

    Parameters
    ----------
    activations_model
        The network.
    area_layers
        Area, e.g. ``"VISp"`` -> its layer, or several layers.
    visual_degrees
        Side of the network's input in degrees of the visual field; benchmarks that resize images need it.
    """

    def __init__(
        self,
        activations_model: ActivationsModel,
        area_layers: Mapping[str, str | Sequence[str]],
        *,
        visual_degrees: int | None = None,
    ) -> None:
        self.activations_model = activations_model
        self.region_layer_map = {
            area: (layers,) if isinstance(layers, str) else tuple(layers)
            for area, layers in area_layers.items()
        }
        self._visual_degrees = visual_degrees
        self._area: str | None = None
        self._time_bins: tuple[tuple[int, int], ...] = ()

    @property
    def identifier(self) -> str:
        """Name of the network."""
        return self.activations_model.identifier

    def visual_degrees(self) -> int:
        """Return the side of the input in degrees of the visual field.

        Raises
        ------
        UsageError
            If it was not given.
        """
        if self._visual_degrees is None:
            raise UsageError(
                f"{self.identifier}: this benchmark needs AreaModel(..., visual_degrees=DEGREES)"
            )
        return self._visual_degrees

    def start_task(self, task: str, fitting_stimuli: object = None) -> None:
        """Accept the task ``"passive"``.

        Raises
        ------
        UsageError
            For any other: there is no behaviour.
        """
        del fitting_stimuli
        if task != "passive":
            raise UsageError(
                f"{self.identifier}: no task '{task}': it is recorded from, and has no behaviour"
            )

    def start_recording(
        self, recording_target: str, time_bins: Sequence[tuple[int, int]] = (TIME_BIN_MS,)
    ) -> None:
        """Record from an area in all following calls of :meth:`look_at`.

        Raises
        ------
        UsageError
            If the area has no layer.
        """
        if recording_target not in self.region_layer_map:
            raise unknown_name("area", recording_target, self.region_layer_map)
        self._area = recording_target
        self._time_bins = tuple((int(start), int(end)) for start, end in time_bins)

    def look_at(
        self, stimuli: StimulusSet | Sequence[str | Path], number_of_trials: int = 1
    ) -> NeuroidAssembly:
        """Show images and return the features of the area's layers.

        Returns
        -------
        NeuroidAssembly
            As :class:`ActivationsModel` gives, with ``region``; for several time bins
            (presentation, neuroid, time_bin), the same in each.

        Raises
        ------
        UsageError
            Before :meth:`start_recording`.
        """
        if self._area is None:
            raise UsageError(f"{self.identifier}: call start_recording(area) before look_at")
        assembly = self.activations_model(
            stimuli, layers=self.region_layer_map[self._area], number_of_trials=number_of_trials
        )
        values, dims = assembly.values, tuple(assembly.dims)
        coordinates = _coordinates(assembly)
        coordinates["region"] = "neuroid", np.full(values.shape[1], self._area)
        if len(self._time_bins) > 1:
            values = np.repeat(values[..., np.newaxis], len(self._time_bins), axis=-1)
            dims = (*dims, "time_bin")
            starts, ends = zip(*self._time_bins, strict=True)
            coordinates |= {
                "time_bin_start": ("time_bin", list(starts)),
                "time_bin_end": ("time_bin", list(ends)),
            }
        return NeuroidAssembly(values, coords=coordinates, dims=dims)


class NeuralBenchmark(BenchmarkBase):  # type: ignore[misc, unused-ignore]
    """Recordings of an area as a benchmark: a candidate's score is the median over units, as mvkit scores.

    Parameters
    ----------
    dataset
        A dataset, the name of one, or the path of a neural file.
    area
        The area, e.g. ``"VISp"``.
    ceiling
        ``"none"``: scores are corrected for noise and divided by nothing else, so that the ceiling is 1;
        ``"holdout"``, ``"pairwise"``: they are divided by the consistency between animals.
    identifier
        None: ``"DATASET.AREA-MAP"``.
    **settings
        As for :func:`mvkit.ceiling`: ``mapping="pls"``, ``n_jobs``, and fields of
        :class:`~mvkit.scoring.ScoreSettings` such as ``n_splits`` and ``n_halves``.

    Attributes
    ----------
    region
        The area.
    stimulus_set
        The images, as files in a temporary folder that lives as long as the benchmark.

    Raises
    ------
    UsageError, DataError
        As :func:`mvkit.open_dataset`, or the area has no recordings.
    """

    def __init__(
        self,
        dataset: NeuralDataset | str | Path,
        area: str,
        *,
        ceiling: Literal["none", "holdout", "pairwise"] = "none",
        identifier: str | None = None,
        **settings: Any,
    ) -> None:
        from mvkit.neural import open_dataset
        from mvkit.pipeline.citations import cite

        opened = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
        self.dataset = opened.in_areas([area])
        self.region = area
        self.settings = settings
        self._kind = ceiling
        self._measured: Score | None = None
        folder = Path(tempfile.mkdtemp(prefix="mvkit-brainscore-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.stimulus_set = write_stimuli(self.dataset, folder)
        published = [self.dataset.name] if self.dataset.name in ("neuropixels", "calcium") else ["simulated"]
        super().__init__(
            identifier=identifier or f"{self.dataset.name}.{area}-{settings.get('mapping', 'pls')}",
            ceiling=None,
            version=1,
            parent="neural",
            bibtex=cite(published).to_bibtex(),
        )

    @property
    def ceiling(self) -> Score:
        """The ceiling by which scores are divided: 1, or the median consistency between animals."""
        if self._measured is None:
            self._measured = Score(1.0) if self._kind == "none" else self._measure_ceiling(self._kind)
        return self._measured

    @property
    def assembly(self) -> NeuronRecordingAssembly:
        """The recordings, see :func:`assemble_recordings`."""
        return assemble_recordings(self.dataset, self.stimulus_set)

    def __call__(self, candidate: Any) -> Score:
        """Score a candidate.

        Parameters
        ----------
        candidate
            A ``BrainModel`` that can be recorded from in this area.

        Returns
        -------
        Score
            The median score over units, divided by the ceiling. ``attrs``: ``raw``, the score of each unit
            (``neuroid``, with ``neuroid_id``, ``region``, ``subject``; NaN where it has none); ``interval``,
            of the median, over animals and units; ``ceiling``; ``protocol``, the digest of the settings and
            responses.

        Raises
        ------
        DataError
            The candidate does not return one row for each image.
        """
        from mvkit.pipeline.score import score

        candidate.start_recording(self.region, time_bins=[TIME_BIN_MS])
        features = self._features(candidate.look_at(self.stimulus_set, number_of_trials=1))
        scores = score({self.region: features}, self.dataset, areas=[self.region], **self.settings)
        row = scores.headline_layers().set_index("area").loc[self.region]
        ceiling = float(self.ceiling)
        result = Score(row["median"] / ceiling)
        result.attrs |= {
            Score.RAW_VALUES_KEY: _score_of_units(scores.columns, self.region),
            "interval": (row["low"] / ceiling, row["high"] / ceiling),
            "ceiling": self.ceiling,
            "protocol": scores.digest(),
        }
        return result

    def _features(self, assembly: Any) -> NDArray[np.floating[Any]]:
        """Return features in the order of the images."""
        if "time_bin" in assembly.dims:
            assembly = assembly.isel(time_bin=0)
        values = assembly.transpose("presentation", "neuroid").values
        shown = {str(one): row for row, one in enumerate(assembly["stimulus_id"].values)}
        wanted = [str(one) for one in self.stimulus_set["stimulus_id"]]
        if len(values) != len(wanted) or shown.keys() != set(wanted):
            raise DataError(
                f"{self.identifier}: the candidate returned {len(values)} presentations of {len(shown)} "
                f"stimuli; one of each of the {len(wanted)} images is needed"
            )
        features: NDArray[np.floating[Any]] = values[[shown[one] for one in wanted]]
        return features

    def _measure_ceiling(self, kind: Literal["holdout", "pairwise"]) -> Score:
        from mvkit.pipeline.score import ceiling

        measured = ceiling(self.dataset, [self.region], kind, **self.settings)
        row = measured.best_layers().set_index("area").loc[self.region]
        result = Score(row["median"])
        result.attrs |= {
            Score.RAW_VALUES_KEY: _score_of_units(measured.columns, self.region),
            "interval": (row["low"], row["high"]),
        }
        return result


def write_stimuli(dataset: NeuralDataset, folder: Path) -> StimulusSet:
    """Write the images of a dataset as PNG files.

    Parameters
    ----------
    dataset
        The dataset.
    folder
        Where to.

    Returns
    -------
    StimulusSet
        Columns ``stimulus_id`` (the number of the image as text) and ``filename``.
    """
    from PIL import Image

    ids = [str(one) for one in dataset.frame_ids.tolist()]
    names = [f"{one}.png" for one in ids]
    for name, picture in zip(names, dataset.stimuli, strict=True):
        Image.fromarray(picture).save(folder / name)
    stimuli = StimulusSet({"stimulus_id": ids, "filename": names})
    stimuli.stimulus_paths = {one: folder / name for one, name in zip(ids, names, strict=True)}
    stimuli.identifier = f"mvkit-{dataset.name}"
    return stimuli


def assemble_recordings(
    dataset: NeuralDataset, stimulus_set: StimulusSet | None = None
) -> NeuronRecordingAssembly:
    """Return recordings as Brain-Score's metrics take them.

    Parameters
    ----------
    dataset
        The recordings.
    stimulus_set
        Becomes an attribute of the assembly.

    Returns
    -------
    NeuronRecordingAssembly
        float32 (presentation, neuroid): every trial of every image (``stimulus_id``, ``repetition``), NaN
        where an animal has no such trial; units with ``neuroid_id``, ``region`` and ``subject``.
    """
    responses = dataset.responses()
    n_trials, n_images, n_units = responses.shape
    table = dataset.unit_table()
    ids = np.array([str(one) for one in dataset.frame_ids.tolist()])
    assembly = NeuronRecordingAssembly(
        responses.reshape(n_trials * n_images, n_units),
        coords={
            "stimulus_id": ("presentation", np.tile(ids, n_trials)),
            "repetition": ("presentation", np.repeat(np.arange(n_trials), n_images)),
            "neuroid_id": ("neuroid", table["unit_id"].to_numpy()),
            "region": ("neuroid", table["visual_area"].to_numpy()),
            "subject": ("neuroid", table["specimen_id"].to_numpy()),
        },
        dims=["presentation", "neuroid"],
    )
    if stimulus_set is not None:
        assembly.attrs |= {
            "stimulus_set": stimulus_set,
            "stimulus_set_identifier": stimulus_set.identifier,
        }
    return assembly


def _assemble(
    activations: Mapping[str, NDArray[np.float32]], paths: Sequence[str], identifier: str
) -> NeuroidAssembly:
    """Put layers side by side along ``neuroid``."""
    flat = [values.reshape(len(values), -1) for values in activations.values()]
    counts = [values.shape[1] for values in flat]
    indices: dict[str, NDArray[np.floating[Any]]] = {}
    axes = {name: None for names in _AXES.values() for name in names}
    shapes = [values.shape[1:] for values in activations.values()]
    for axis in axes:
        columns = []
        for shape, count in zip(shapes, counts, strict=True):
            names = _AXES.get(len(shape), ())
            grid = np.indices(shape)[names.index(axis)].ravel() if axis in names else np.full(count, np.nan)
            columns.append(grid.astype(np.float64))
        indices[axis] = np.concatenate(columns)
    layers = np.repeat(list(activations), counts)
    numbers = np.concatenate([np.arange(count) for count in counts])
    ids = [f"{identifier}.{layer}.{number}" for layer, number in zip(layers, numbers, strict=True)]
    neuroids: dict[str, Any] = {"neuroid_id": ids, "neuroid_num": numbers, "layer": layers}
    neuroids["model"] = np.full(len(ids), identifier)
    # An axis that no layer has is no coordinate.
    neuroids |= {axis: values for axis, values in indices.items() if not np.isnan(values).all()}
    return NeuroidAssembly(
        np.concatenate(flat, axis=1),
        coords={
            # The interface asks for an id; a StimulusSet gives its own.
            "stimulus_id": ("presentation", list(paths)),
            "stimulus_path": ("presentation", list(paths)),
            **{name: ("neuroid", values) for name, values in neuroids.items()},
        },
        dims=["presentation", "neuroid"],
    )


def _coordinates(assembly: Any) -> dict[str, tuple[str, Any]]:
    """Return the coordinates of an assembly, which are levels of an index for each dimension."""
    return {
        str(name): (values.dims[0], values.values)
        for name, values in assembly.reset_index(list(assembly.dims)).coords.items()
        if values.dims and name not in assembly.dims
    }


def _score_of_units(columns: Mapping[str, NDArray[Any]], area: str) -> Score:
    chosen = columns["area"] == area
    return Score(
        columns["score"][chosen],
        coords={
            "neuroid_id": ("neuroid", columns["unit_id"][chosen]),
            "region": ("neuroid", columns["area"][chosen]),
            "subject": ("neuroid", columns["specimen"][chosen]),
        },
        dims=["neuroid"],
    )
