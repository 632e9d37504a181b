"""Made-up sessions of known spike times, as files: committed ones, and small ones written with h5py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

ALLEN = Path(__file__).parents[2] / "allen"


@pytest.fixture(scope="session")
def allen_files() -> Path:
    """Folder of three sessions that pynwb wrote and AllenSDK opens, with the truth beside."""
    return ALLEN / "files"


@pytest.fixture(scope="session")
def sessions() -> ModuleType:
    """Module that draws sessions and counts their spikes by comparing each with every bin."""
    return _loaded("sessions")


@pytest.fixture(scope="session")
def ophys_files() -> ModuleType:
    """Module that draws imaging experiments, writes their files and computes their responses one by one."""
    return _loaded("ophys_files")


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mvkit_made_up_{name}", ALLEN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_folder(sessions: ModuleType) -> Callable[..., np.ndarray]:
    """Writes sessions as NWB files side by side, and images; returns the images."""

    def write(folder: Path, *made: Any, n_frames: int = 12) -> np.ndarray:
        for session in made:
            _write_nwb(session, folder / f"session_{session.session_id}.nwb")
        images = sessions.scene_templates(n_frames)
        (folder / "natural_scene_templates").mkdir(exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / "natural_scene_templates" / f"natural_scene_{number}.tiff")
        return np.asarray(images)

    return write


def _write_nwb(session: Any, path: Path) -> None:
    """Write only what a reader needs, in the layout of NWB 2."""
    channels = {
        (unit.probe, unit.vertical_um, unit.horizontal_um, unit.location): unit for unit in session.units
    }
    keys = sorted(channels)
    with h5py.File(path, "w") as file:
        file["identifier"] = str(session.session_id)
        file["general/subject/subject_id"] = str(session.subject_id)
        _table(
            file.create_group("general/extracellular_ephys/electrodes"),
            id=np.arange(len(keys)) + 50,
            location=[channels[key].location or "None" for key in keys],
            group_name=[key[0] for key in keys],
            probe_vertical_position=np.array([key[1] for key in keys]),
            probe_horizontal_position=np.array([key[2] for key in keys]),
            valid_data=np.array([channels[key].valid_channel for key in keys]),
        )
        units = session.units
        peaks = [keys.index((one.probe, one.vertical_um, one.horizontal_um, one.location)) for one in units]
        _table(
            file.create_group("units"),
            id=np.array([unit.unit_id for unit in units]),
            peak_channel_id=np.array(peaks) + 50,
            quality=[unit.quality for unit in units],
            spike_times=np.concatenate([unit.spikes_s for unit in units]),
            spike_times_index=np.cumsum([len(unit.spikes_s) for unit in units]),
            **{
                name: np.array([getattr(unit, name) for unit in units])
                for name in ("isi_violations", "amplitude_cutoff", "presence_ratio")
            },
        )
        for name in {one.stimulus for one in session.presentations}:
            shown = [one for one in session.presentations if one.stimulus == name]
            _table(
                file.create_group(f"intervals/{name}_presentations"),
                start_time=np.array([one.start_s for one in shown]),
                stop_time=np.array([one.stop_s for one in shown]),
                stimulus_name=[one.stimulus for one in shown],
                frame=np.array([one.frame for one in shown]),
            )
        if session.invalid_s:
            _table(
                file.create_group("intervals/invalid_times"),
                start_time=np.array([low for low, _ in session.invalid_s]),
                stop_time=np.array([high for _, high in session.invalid_s]),
                tags=["stimulus"] * len(session.invalid_s),
                tags_index=np.arange(len(session.invalid_s)) + 1,
            )


def _table(group: Any, **columns: Any) -> None:
    for name, values in columns.items():
        if isinstance(values, list):
            group.create_dataset(name, data=values, dtype=h5py.string_dtype())
        else:
            group[name] = values
