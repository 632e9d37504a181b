"""Extraction by names: what ``mvkit extract`` asks for, resolved to a network, images and a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from mvkit.errors import UsageError
from mvkit.features.extraction import ExtractionReport, extract_to_file, refuse_existing
from mvkit.features.featureset import LayerInfo
from mvkit.features.formats import feature_path
from mvkit.features.forward_pass import ProgressCallback
from mvkit.features.listing import survey_layers
from mvkit.features.modes import limited_threads
from mvkit.features.stimuli import FALLBACK_DATASET, PREFERRED_DATASET, Stimuli, default_stimuli, open_stimuli
from mvkit.models import VisionModel, load_model
from mvkit.models.exporting import ExportReport, check_target, export_weights
from mvkit.models.foreign.options import InputOptions

Remark = Callable[[str], None]


@dataclass(frozen=True)
class ExtractRequest:
    """One extraction, in names and numbers.

    Parameters
    ----------
    model
        Name of a model, or the path of a checkpoint or folder of a training run.
    layers
        Names, patterns or ``published``; None for the model's default list.
    stimuli
        Dataset, neural file or folder; None for the published stimuli if fetched, else the simulated ones.
    weights
        "released", "random" or the path of a checkpoint.
    seed
        Seed of random weights; None: 0, or a training run's own.
    batch_size
        Images per forward pass; None: by the size of the inputs.
    device
        Where to compute.
    threads
        CPU threads; None leaves torch's choice.
    inputs
        Preprocessing of a model from elsewhere, see :func:`mvkit.load_model` (``input_size``, ``mean``, ...).
    home
        mvkit's home directory.
    format
        Of the feature file: "h5", "npz", or None to go by its name.
    """

    model: str
    layers: tuple[str, ...] | None = None
    stimuli: str | None = None
    weights: str = "released"
    seed: int | None = None
    batch_size: int | None = None
    device: str = "cpu"
    threads: int | None = None
    inputs: InputOptions = field(default_factory=InputOptions)
    home: Path | None = None
    format: str | None = None

    def load_model(self) -> nn.Module:
        """Load the network."""
        return load_model(
            self.model, weights=self.weights, seed=self.seed, home=self.home, **self.inputs.keywords()
        )

    def open_stimuli(self, remark: Remark) -> Stimuli:
        """Open the images, with a remark if simulated ones stand in for the published ones."""
        chosen = self.stimuli or default_stimuli(home=self.home)
        if self.stimuli is None and chosen == FALLBACK_DATASET:
            remark(
                f"stimuli: the {FALLBACK_DATASET} dataset; for the published images run "
                f"mvkit fetch neural --dataset {PREFERRED_DATASET}"
            )
        return open_stimuli(chosen, home=self.home)


def run_extract(
    request: ExtractRequest,
    target: Path | None,
    *,
    overwrite: bool,
    remark: Remark,
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Carry out a request and write the feature file.

    Raises
    ------
    UsageError
        If there is no target, it exists, it is named otherwise than its format, or a name is wrong.
    MvkitError
        If weights or images are missing or damaged.
    """
    if target is None:
        raise UsageError(
            "--out FILE is missing: where should the features go? (--list-layers writes nothing)"
        )
    target = feature_path(target, request.format)
    # Before the weights are read, which takes seconds.
    refuse_existing(target, overwrite=overwrite)
    model = request.load_model()
    if isinstance(model, VisionModel) and model.describe():
        remark(f"{model.name}: {model.describe()}")
    stimuli = request.open_stimuli(remark)
    with limited_threads(request.threads):
        return extract_to_file(
            model,
            stimuli,
            target,
            request.layers,
            batch_size=request.batch_size,
            device=request.device,
            overwrite=overwrite,
            progress=progress,
        )


def run_export(request: ExtractRequest, target: Path, *, overwrite: bool) -> ExportReport:
    """Write the weights of a request's model instead of features.

    Raises
    ------
    UsageError
        If the target exists or is not named ``*.safetensors``, or a name is wrong.
    MvkitError
        If weights are missing or damaged.
    """
    check_target(target, overwrite=overwrite)
    return export_weights(request.load_model(), target, overwrite=overwrite)


@dataclass(frozen=True)
class LayerListing:
    """Layers of a model and how many images they were listed for.

    Parameters
    ----------
    model, stimuli
        Names.
    network
        Which weights of a training run it has, and how large its input is; "" if that is not known.
    n_images
        Number of images.
    layers
        The layers, in the model's order.
    left_out
        Modules that cannot be tapped -> why.
    """

    model: str
    stimuli: str
    network: str
    n_images: int
    layers: tuple[LayerInfo, ...]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the listing as plain data."""
        return {
            "model": self.model,
            "stimuli": self.stimuli,
            "network": self.network,
            "n_images": self.n_images,
            "layers": [layer.to_json() for layer in self.layers],
            "left_out": dict(self.left_out),
        }


def list_named(request: ExtractRequest, *, remark: Remark) -> LayerListing:
    """List the layers of a request's model for its stimuli; only those matching its patterns, if it has any.

    Raises
    ------
    UsageError
        If a name is wrong.
    MvkitError
        If weights or images are missing or damaged.
    """
    model = request.load_model()
    stimuli = request.open_stimuli(remark)
    with limited_threads(request.threads):
        survey = survey_layers(model, stimuli, request.layers, device=request.device)
    n_images = len(stimuli.image_ids)
    network = model.describe() if isinstance(model, VisionModel) else ""
    return LayerListing(request.model, stimuli.name, network, n_images, survey.layers, survey.left_out)
