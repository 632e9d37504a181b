"""What a scoring run would need: memory, disk and time, measured here before anything long starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mvkit.paths import ceilings_dir
from mvkit.report.estimate import CeilingNeeds, LayerNeeds, RunEstimate
from mvkit.resources import available_cores, worker_number
from mvkit.score_machine import THIS_MACHINE, FirstImages, Machine
from mvkit.score_needs import Plan, Seen, model_needs
from mvkit.score_run import open_run

if TYPE_CHECKING:
    from mvkit.features.stimuli import Stimuli
    from mvkit.models import VisionModel
    from mvkit.score_request import ScoreRequest
    from mvkit.scoring.settings import RecordingLike
    from mvkit.scoring.speed import Speed


def estimate_run(
    request: ScoreRequest, *, remark: Callable[[str], None], machine: Machine | None = None
) -> RunEstimate:
    """Tell what a scoring run would need, in a few seconds and without keeping anything.

    A few images go through each network and a few fits are made, so that times are those of this machine as
    it is now. What is kept from earlier runs counts as done.

    Parameters
    ----------
    request
        As for :func:`mvkit.score_run.run_score`; what that refuses before work starts is refused here too.
    remark
        Called with notes for the user.
    machine
        What measures; None: this machine.

    Raises
    ------
    UsageError, RecipeError, CheckpointError, DataError
        As :func:`mvkit.score_run.run_score`.
    """
    from mvkit.scoring.protocol import splits_of
    from mvkit.scoring.run import check_recordings, populations

    machine = machine or THIS_MACHINE
    began = machine.clock()
    run = open_run(request, remark=remark)
    opening_s, started_bytes = machine.clock() - began, machine.resident()
    n_images = check_recordings(run.recorded.recordings, run.settings)
    processes = worker_number(request.resources)
    plan = Plan(
        request=request,
        run=run,
        compared=populations(run.recorded.recordings, run.settings),
        n_images=n_images,
        n_splits=len(splits_of(n_images, run.settings)),
        # Of a cluster (-1) nothing is known here.
        processes=processes if processes > 0 else available_cores(),
        cores=available_cores(),
        started_bytes=started_bytes,
        machine=machine,
    )
    seen = {name: _seen(plan, model) for name, model in run.models.items()}
    speed = _speed(plan, seen)
    return RunEstimate(
        dataset=run.recorded.dataset.name,
        n_images=n_images,
        n_recordings=len(plan.compared),
        n_units=sum(recording.responses.shape[2] for recording in plan.compared),
        settings=run.settings.model_dump(mode="json"),
        n_workers=plan.processes,
        opening_s=opening_s,
        models=tuple(model_needs(plan, name, found, speed) for name, found in seen.items()),
        ceiling=_ceiling(plan),
        extrapolate=request.extrapolate,
    )


def _seen(plan: Plan, model: VisionModel) -> Seen:
    """Look at a model: its layers, what is kept of them, and how long an image takes."""
    from mvkit.features.forward_pass import ForwardPass
    from mvkit.features.scratch import IN_MEMORY_BYTES
    from mvkit.features.stimuli import open_stimuli
    from mvkit.models.foreign.wrappers import unwrapped

    resources, network = plan.request.resources, unwrapped(model)
    stimuli = open_stimuli(plan.run.recorded.dataset)

    def journey(images: Stimuli) -> ForwardPass:
        return ForwardPass(
            network,
            images,
            plan.request.layers,
            batch_size=resources.batch_size,
            device=resources.device,
        )

    layers = {
        name: LayerNeeds(name, info.shape, info.n_features, info.n_bytes(plan.n_images))
        for name, info in journey(FirstImages(stimuli, 1)).look().layers.items()
    }
    missing, unopened = _missing(plan, model, tuple(layers))
    opened = tuple(layer for name, layer in layers.items() if missing[name] and name not in unopened)
    n_compared = len(plan.compared)
    return Seen(
        layers=tuple(
            replace(layer, n_kept=n_compared - len(missing[name])) for name, layer in layers.items()
        ),
        missing=missing,
        opened=opened,
        image_s=plan.machine.image_s(journey, stimuli) if opened else 0.0,
        batch_size=min(journey(stimuli).images_per_batch, plan.n_images),
        in_memory=sum(layer.n_bytes for layer in opened) <= IN_MEMORY_BYTES,
    )


def _missing(
    plan: Plan, model: VisionModel, names: Sequence[str]
) -> tuple[dict[str, tuple[RecordingLike, ...]], frozenset[str]]:
    """Return what each layer is still to be compared with, and layers whose coordinates are kept."""
    from mvkit.score_layers import open_layers
    from mvkit.scoring.kept_coordinates import KeptCoordinates
    from mvkit.scoring.maps import MAPPINGS

    resources, settings = plan.request.resources, plan.run.settings
    everything = dict.fromkeys(names, tuple(plan.compared))
    if not resources.cache:
        return everything, frozenset()
    found = open_layers(model, plan.run.recorded.dataset, plan.request.layers, settings, resources)
    kept = found.kept_scores(settings)
    if kept is None or found.store is None or not found.identities:
        return everything, frozenset()
    missing = {
        name: tuple(recording for recording in plan.compared if kept.read(name, recording) is None)
        for name in names
    }
    if not MAPPINGS[settings.mapping].from_coordinates:
        return missing, frozenset()
    coordinates = KeptCoordinates(found.store, found.identities)
    unopened = [name for name in names if missing[name] and coordinates.read(name) is not None]
    return missing, frozenset(unopened)


def _speed(plan: Plan, seen: Mapping[str, Seen]) -> Speed | None:
    """Measure how long fits take, if there are any left to be made."""
    widths = [
        layer.n_features for found in seen.values() for layer in found.layers if found.missing[layer.name]
    ]
    if not widths:
        return None
    images = plan.run.recorded.dataset.stimuli
    return plan.machine.speed(images, plan.compared, widths, plan.run.settings)


def _ceiling(plan: Plan) -> CeilingNeeds | None:
    from mvkit.scoring.ceiling_cache import is_kept

    settings, resources = plan.run.settings, plan.request.resources
    if settings.ceiling == "none":
        return None
    recordings = plan.run.recorded.recordings
    if resources.cache and is_kept(recordings, settings, ceilings_dir(resources.home)):
        return CeilingNeeds(settings.ceiling, is_kept=True, seconds=0.0)
    sample = plan.machine.ceiling_s(recordings, settings)
    seconds = sample * plan.n_splits * settings.n_halves / plan.at_a_time
    return CeilingNeeds(settings.ceiling, is_kept=False, seconds=seconds)
