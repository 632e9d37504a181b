"""Write made-up sessions as NWB files that AllenSDK opens; runs in the AllenSDK environment only (pynwb 2).

What a released Neuropixels session holds and AllenSDK reads is there; LFP, running and pupil are not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pynwb
from allensdk.brain_observatory.ecephys.nwb import EcephysElectrodeGroup, EcephysProbe, EcephysSpecimen
from hdmf.backends.hdf5.h5_utils import H5DataIO
from hdmf.common import VectorData, VectorIndex
from pynwb.epoch import TimeIntervals
from pynwb.image import ImageSeries
from pynwb.misc import Units
from sessions import Presentation, Session, Unit

SAMPLING_HZ = 29999.9
METRICS = ("isi_violations", "amplitude_cutoff", "presence_ratio", "snr")


def write_session(session: Session, path: Path, images: np.ndarray | None = None) -> None:
    """Write one session file.

    Parameters
    ----------
    session
        What was recorded.
    path
        File to create; its folder is made.
    images
        uint8 (n_frames, height, width) to store in the file; released files have none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    nwb = pynwb.NWBFile(
        session_description="Data and metadata for an Ecephys session",
        identifier=str(session.session_id),
        session_id=str(session.session_id),
        session_start_time=datetime(2019, 1, 19, 0, 54, 18, tzinfo=UTC),
        stimulus_notes="brain_observatory_1.1",
    )
    nwb.subject = EcephysSpecimen(
        subject_id=str(session.subject_id),
        specimen_name=f"made-up-{session.specimen_id}",
        age="P100D",
        age_in_days=100.0,
        genotype="wt/wt",
        sex="M",
        species="Mus musculus",
        strain="made up",
    )
    channels = _add_electrodes(nwb, session)
    nwb.units = _units_table(session, channels)
    for name in dict.fromkeys(one.stimulus for one in session.presentations):
        shown = [one for one in session.presentations if one.stimulus == name]
        nwb.add_time_intervals(_intervals(name, shown, session.presentations))
    for low, high in session.invalid_s:
        nwb.add_invalid_time_interval(
            start_time=low, stop_time=high, tags=["EcephysSession", str(session.session_id), "stimulus"]
        )
    if images is not None:
        nwb.add_stimulus_template(
            ImageSeries(name="natural_scenes", data=_packed(images), unit="NA", format="raw", rate=1.0)
        )
    # The cached specification would be larger than everything else.
    with pynwb.NWBHDF5IO(str(path), "w") as file:
        file.write(nwb, cache_spec=False)


def probe_ids(session: Session) -> dict[str, int]:
    """Return the identifier of each probe."""
    names = sorted({unit.probe for unit in session.units})
    return {name: session.session_id * 10 + number for number, name in enumerate(names, start=1)}


def channel_of(session: Session, unit: Unit) -> int:
    """Return the identifier of a unit's peak channel; units at one place share it."""
    bad = 0 if unit.valid_channel else 50_000
    row = unit.vertical_um * 10 + unit.horizontal_um
    kind = sorted({one.location for one in session.units}).index(unit.location)
    return probe_ids(session)[unit.probe] * 1_000_000 + bad + row * 20 + kind


def _add_electrodes(nwb: pynwb.NWBFile, session: Session) -> dict[int, Unit]:
    groups = {}
    for name, probe_id in probe_ids(session).items():
        probe = EcephysProbe(
            name=name,
            description="Neuropixels 1.0 Probe",
            manufacturer="imec",
            probe_id=probe_id,
            sampling_rate=SAMPLING_HZ,
        )
        nwb.add_device(probe)
        groups[name] = EcephysElectrodeGroup(
            name=name,
            description="Ecephys Electrode Group",
            probe_id=probe_id,
            location="See electrode locations",
            device=probe,
            lfp_sampling_rate=1249.99,
            has_lfp_data=False,
        )
        nwb.add_electrode_group(groups[name])
    for column in ("probe_vertical_position", "probe_horizontal_position", "probe_id", "local_index"):
        nwb.add_electrode_column(column, column)
    nwb.add_electrode_column("valid_data", "whether data from this channel are usable")
    channels = {channel_of(session, unit): unit for unit in session.units}
    for number, (channel_id, unit) in enumerate(sorted(channels.items())):
        nwb.add_electrode(
            id=channel_id,
            x=1.0,
            y=2.0,
            z=3.0,
            # Released files say so of channels outside the brain.
            location=unit.location or "None",
            filtering="AP band: 500 Hz high-pass",
            group=groups[unit.probe],
            probe_vertical_position=unit.vertical_um,
            probe_horizontal_position=unit.horizontal_um,
            probe_id=probe_ids(session)[unit.probe],
            local_index=number,
            valid_data=unit.valid_channel,
        )
    return channels


def _units_table(session: Session, channels: dict[int, Unit]) -> Units:
    units = session.units
    ends = np.cumsum([len(unit.spikes_s) for unit in units])
    times = VectorData(
        name="spike_times", description="seconds", data=_packed(np.concatenate([u.spikes_s for u in units]))
    )
    amplitudes = VectorData(
        name="spike_amplitudes", description="volts", data=_packed(np.full(ends[-1], 1e-4, dtype=np.float32))
    )
    waves = VectorData(
        name="waveform_mean",
        description="volts",
        data=_packed(np.zeros((len(units) * 2, 4), dtype=np.float32)),
    )
    plain = {
        "peak_channel_id": [channel_of(session, unit) for unit in units],
        "local_index": list(range(len(units))),
        "cluster_id": list(range(len(units))),
        "quality": [unit.quality for unit in units],
        "firing_rate": [float(len(unit.spikes_s)) / 100 for unit in units],
        **{name: [getattr(unit, name) for unit in units] for name in METRICS},
    }
    columns = [VectorData(name=name, description=name, data=values) for name, values in plain.items()]
    columns += [times, _index(times, ends), amplitudes, _index(amplitudes, ends)]
    columns += [waves, _index(waves, 2 * np.arange(1, len(units) + 1))]
    return Units(
        name="units",
        description="sorted units",
        id=[unit.unit_id for unit in units],
        columns=columns,
        colnames=[*plain, "spike_times", "spike_amplitudes", "waveform_mean"],
    )


def _index(target: VectorData, ends: np.ndarray) -> VectorIndex:
    return VectorIndex(name=f"{target.name}_index", target=target, data=ends.astype(np.uint32))


def _packed(values: np.ndarray) -> H5DataIO:
    return H5DataIO(values, compression="gzip", shuffle=True, chunks=True)


def _intervals(name: str, shown: list[Presentation], every: tuple[Presentation, ...]) -> TimeIntervals:
    places = {id(one): index for index, one in enumerate(sorted(every, key=lambda one: one.start_s))}
    columns = {
        "start_time": np.array([one.start_s for one in shown]),
        "stop_time": np.array([one.stop_s for one in shown]),
        "stimulus_index": np.array([places[id(one)] for one in shown], dtype=np.float64),
    }
    if name != "spontaneous":
        columns["stimulus_block"] = np.array([one.block for one in shown])
    if name == "natural_scenes":
        columns["frame"] = np.array([one.frame for one in shown])
    if name == "flashes":
        columns["color"] = np.array(["-1.0", "1.0"] * len(shown))[: len(shown)]
    data = [VectorData(name=key, description=key, data=_column(values)) for key, values in columns.items()]
    names = VectorData(name="stimulus_name", description="kind", data=[one.stimulus for one in shown])
    return TimeIntervals(
        name=f"{name}_presentations",
        description=f"Presentation times and stimuli details for '{name}' stimuli",
        columns=[*data, names],
        colnames=[*columns, "stimulus_name"],
        id=list(range(len(shown))),
    )


def _column(values: np.ndarray) -> object:
    return values.tolist() if values.dtype.kind == "U" else _packed(values)
