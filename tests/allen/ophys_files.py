"""Write made-up imaging experiments as NWB-1 files that AllenSDK opens; needs numpy and h5py only.

Traces are known, so that every mean sweep response can be computed from them one number at a time
(:func:`expected_responses`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

RATE_HZ = 30.0
#: Samples of a presentation, and of the recording before the first and after the last.
LENGTH, LEAD = 7, 40
METRICS = (
    "image_sel_ns",
    "p_ns",
    "p_run_mod_ns",
    "peak_dff_ns",
    "pref_image_ns",
    "reliability_ns",
    "run_mod_ns",
    "time_to_peak_ns",
)
DOWNLOADS = "/api/v2/well_known_file_download"
PIPELINE = "processing/brain_observatory_pipeline"


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was imaged.

    Attributes
    ----------
    experiment_id, container_id, specimen_id
        Numbers; ``donor`` is the one that ends the animal's name.
    area
        Targeted structure.
    cell_ids
        int64 (n_cells,).
    demixed, neuropil
        float64 (n_cells, n_samples); ``share`` float64 (n_cells,) of neuropil is subtracted.
    shown
        int64 (n_presentations, 3): frame (-1 grey), first sample, end; in the order of the file.
    images
        uint8 (n_frames, height, width).
    metrics
        Columns of ``cell_specimens.json`` by cell; a cell may lack.
    """

    experiment_id: int
    container_id: int
    specimen_id: int
    donor: int
    area: str
    cell_ids: np.ndarray
    demixed: np.ndarray
    neuropil: np.ndarray
    share: np.ndarray
    shown: np.ndarray
    images: np.ndarray
    metrics: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    pipeline: str = "3.0"
    failed: bool = False

    @property
    def corrected(self) -> np.ndarray:
        """float64 (n_cells, n_samples)."""
        return self.demixed - self.neuropil * self.share[:, None]


def draw_experiment(
    experiment_id: int,
    *,
    area: str = "VISp",
    specimen: int = 1,
    n_cells: int = 4,
    n_frames: int = 6,
    n_trials: int = 5,
    fewer: Mapping[int, int] | None = None,
    seed: int = 0,
    samples_cut: int = 0,
    noise: float = 2.0,
) -> Experiment:
    """Draw an experiment.

    Parameters
    ----------
    experiment_id, area, n_cells
        Of the experiment.
    specimen
        Small number of the animal.
    n_frames, n_trials
        Images, and presentations of each; a grey one comes with every trial.
    fewer
        Image -> presentations of it.
    seed
        Of all that is drawn; images are the same for all seeds.
    samples_cut
        The recording ends so many samples before the last presentation ends.
    noise
        Standard deviation of a trace around its mean response.
    """
    draws = np.random.default_rng(seed)
    counts = dict.fromkeys(range(-1, n_frames), n_trials) | dict(fewer or {})
    rounds = [[frame for frame in counts if counts[frame] > trial] for trial in range(n_trials)]
    frames = np.concatenate([draws.permutation(part) for part in rounds])
    # Mostly without a gap, so that a baseline holds responses to earlier images, as in the real ones.
    start = LEAD + np.cumsum(draws.choice([LENGTH, LENGTH, LENGTH + 1], len(frames))) - LENGTH
    shown = np.stack([frames, start, start + LENGTH], axis=1).astype(np.int64)
    n_samples = int(shown[-1, 2]) + (LEAD if not samples_cut else -samples_cut)
    rest = draws.uniform(80, 200, n_cells)
    driven = draws.gamma(0.6, 20.0, (n_cells, n_frames + 1))
    demixed = rest[:, None] + draws.normal(0, noise, (n_cells, n_samples))
    for frame, first, _ in shown:
        last = min(first + 2 * LENGTH, n_samples)
        demixed[:, first:last] += driven[:, [frame]] * (frame >= 0)
    cell_ids = 517_000_000 + 1000 * (experiment_id % 1000) + draws.permutation(n_cells)
    table: dict[int, dict[str, float | None]] = {
        int(cell): {name: float(draws.uniform(0.1, 1)) for name in METRICS} for cell in cell_ids
    }
    # Not every cell has every metric, and not every cell is in the table.
    table[int(cell_ids[0])]["pref_image_ns"] = None
    if n_cells > 2:
        del table[int(cell_ids[1])]
    return Experiment(
        experiment_id=experiment_id,
        container_id=experiment_id + 100_000,
        specimen_id=496_908_000 + specimen,
        donor=222_400 + specimen,
        area=area,
        cell_ids=cell_ids.astype(np.int64),
        demixed=demixed,
        neuropil=draws.uniform(10, 20, (n_cells, n_samples)),
        share=draws.uniform(0.2, 0.9, n_cells),
        shown=shown,
        images=np.random.default_rng(99).integers(0, 256, (n_frames, 6, 8)).astype(np.uint8),
        metrics=table,
    )


def expected_responses(experiment: Experiment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute what a reader must find, one response at a time.

    Returns
    -------
    tuple
        frame ids int64 (n_frames,), responses float64 (n_trials, n_frames, n_cells), present bool.
    """
    traces = experiment.corrected
    found: dict[int, list[np.ndarray]] = {}
    for frame, first, _ in sorted(experiment.shown.tolist(), key=lambda row: row[1]):
        if frame < 0 or first < 4 * LENGTH or first >= traces.shape[1]:
            continue
        cells = []
        for trace in traces:
            rest = sum(trace[first - 4 * LENGTH : first]) / (4 * LENGTH)
            after = trace[first : first + 2 * LENGTH]
            cells.append(100 * (sum(value / rest - 1 for value in after) / len(after)))
        found.setdefault(frame, []).append(np.array(cells))
    frames = sorted(found)
    shape = (max(len(part) for part in found.values()), len(frames), len(traces))
    responses = np.full(shape, np.nan)
    for column, frame in enumerate(frames):
        for trial, values in enumerate(found[frame]):
            responses[trial, column] = values
    present = np.array([[trial < len(found[frame]) for frame in frames] for trial in range(shape[0])])
    return np.array(frames, dtype=np.int64), responses, present


def write_experiment(experiment: Experiment, path: Path, *, stimulus: str = "natural_scenes") -> Path:
    """Write one NWB-1 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_samples = experiment.demixed.shape[1]
    times = np.arange(n_samples) / RATE_HZ
    with h5py.File(path, "w") as file:
        for name, text in _texts(experiment).items():
            file[name] = np.bytes_(text)
        if experiment.pipeline:
            file["general/generated_by"] = np.array(
                [b"allensdk", b"version", experiment.pipeline.encode()], dtype="S16"
            )
        cells = file.create_group(f"{PIPELINE}/ImageSegmentation")
        cells["cell_specimen_ids"] = experiment.cell_ids
        cells["roi_ids"] = experiment.cell_ids + 1
        series = file.create_group(f"{PIPELINE}/Fluorescence/imaging_plane_1")
        series["timestamps"] = times
        if experiment.pipeline >= "2":
            series["data"] = experiment.demixed + 1000
            file[f"{PIPELINE}/Fluorescence/imaging_plane_1_demixed_signal/data"] = experiment.demixed
            around = file.create_group(f"{PIPELINE}/Fluorescence/imaging_plane_1_neuropil_response")
            around["data"], around["r"] = experiment.neuropil, experiment.share
        else:
            series["data"] = experiment.demixed
            series["neuropil_traces"], series["r"] = experiment.neuropil, experiment.share
        speed = file.create_group(f"{PIPELINE}/BehavioralTimeSeries/running_speed")
        speed["data"], speed["timestamps"] = np.zeros(n_samples), times
        shown = file.create_group(f"stimulus/presentation/{stimulus}_stimulus")
        shown["data"], shown["frame_duration"] = experiment.shown[:, 0], experiment.shown[:, 1:]
        shown["timestamps"] = experiment.shown[:, 1] / RATE_HZ
        file[f"stimulus/templates/{stimulus}_image_stack/data"] = experiment.images
    return path


def write_ophys_folder(folder: Path, experiments: Sequence[Experiment]) -> Path:
    """Write experiments and tables as ``BrainObservatoryCache`` lays them out."""
    for experiment in experiments:
        write_experiment(experiment, folder / "ophys_experiment_data" / f"{experiment.experiment_id}.nwb")
    for name, rows in ophys_tables(experiments).items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def ophys_tables(experiments: Sequence[Experiment]) -> dict[str, list[dict[str, object]]]:
    """Return rows of the tables as the warehouse gives them."""
    return {
        "ophys_experiments": [_experiment_row(one) for one in experiments],
        "cell_specimens": [
            {
                "cell_specimen_id": cell,
                "area": one.area,
                "experiment_container_id": one.container_id,
                "specimen_id": one.specimen_id,
                "failed_experiment_container": one.failed,
                **row,
            }
            for one in experiments
            for cell, row in one.metrics.items()
        ],
    }


def _experiment_row(one: Experiment) -> dict[str, object]:
    return {
        "id": one.experiment_id,
        "experiment_container_id": one.container_id,
        "experiment_container": {"id": one.container_id, "failed": one.failed},
        "specimen_id": one.specimen_id,
        "specimen": {"id": one.specimen_id, "name": f"Cux2-CreERT2-{one.donor}"},
        "targeted_structure": {"acronym": one.area},
        "stimulus_name": "three_session_B",
        "imaging_depth": 175,
        "well_known_files": [
            {
                "download_link": f"{DOWNLOADS}/ophys_experiment_data/{one.experiment_id}.nwb",
                "well_known_file_type": {"name": "NWBOphys"},
            }
        ],
    }


def _texts(experiment: Experiment) -> dict[str, str]:
    return {
        "session_start_time": "Mon Feb  1 09:00:00 2016",
        "general/session_id": str(experiment.experiment_id),
        "general/experiment_container_id": str(experiment.container_id),
        "general/session_type": "three_session_B",
        "general/specimen_name": f"Cux2-CreERT2-{experiment.donor}",
        "general/fov": "400x400 microns (512 x 512 pixels)",
        "general/subject/age": "100 days",
        "general/subject/sex": "M",
        "general/subject/genotype": "Cux2-CreERT2/wt;Camk2a-tTA/wt",
        "general/devices/2-photon microscope": "Nikon A1R. CAM2P.1 Please see the manual",
        "general/optophysiology/imaging_plane_1/location": experiment.area,
        "general/optophysiology/imaging_plane_1/imaging depth": "175 microns",
        "general/optophysiology/imaging_plane_1/excitation_lambda": "910",
        "general/optophysiology/imaging_plane_1/indicator": "GCaMP6f",
    }
