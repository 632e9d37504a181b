"""Time and memory of converting a multi-GB pickle of the published layout.

    python benchmarks/convert_pickle.py [--gb 3] [--dir DIR] [--dataset neuropixels]

A pickle of that size is made (its header by pickling a recording whose array is
a placeholder, its numbers block by block), converted in a process of its own,
and removed. Baselines of the same run: reading the file, and the
straightforward way (numpy reads ten trials, HDF5 compresses them).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

N_TRIALS, N_IMAGES, N_BINS = 50, 118, 25
STIMULUS_PX = (918, 1174)
PLACEHOLDER = b"the numbers go here"

CONVERT = """
import json, sys, time
from pathlib import Path
from mvkit.neural import convert_pickle
start, cpu = time.perf_counter(), time.process_time()
report = convert_pickle(Path(sys.argv[1]), Path(sys.argv[2]), dataset=sys.argv[3])
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu,
                  "stored_as": report.stored_as, "missing": report.missing_fraction}))
"""

PLAIN_READ = """
import json, sys, time
start = time.perf_counter()
block = bytearray(4 << 20)
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.readinto(block):
        pass
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

SIMPLE_WAY = """
import json, sys, time
import h5py, numpy as np
path, target, offset, shape = sys.argv[1], sys.argv[2], int(sys.argv[4]), tuple(json.loads(sys.argv[5]))
start = time.perf_counter()
chunk = (10, shape[1], *(min(5, n) for n in shape[2:-1]), min(128, shape[-1]))
with open(path, "rb") as file, h5py.File(target, "w") as out:
    file.seek(offset)
    is_counts = sys.argv[3] == "neuropixels"
    stored = out.create_dataset("responses", shape, "u1" if is_counts else "f8", chunks=chunk,
                                compression="gzip", compression_opts=4, shuffle=True)
    for trial in range(0, shape[0], 10):
        rates = np.fromfile(file, "f8", 10 * int(np.prod(shape[1:]))).reshape(10, *shape[1:])
        stored[trial:trial + 10] = np.nan_to_num(np.rint(rates * 0.01), nan=255) if is_counts else rates
print(json.dumps({"seconds": time.perf_counter() - start}))
"""

#: Peak memory of the process alone; ru_maxrss would start from the parent's.
PEAK = """
import re
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps({"peak_mb": peak / 1024}))
"""


class _HeaderPickler(pickle.Pickler):
    """Pickles everything but the responses, which become a placeholder."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray) or obj.ndim < 3 or obj.dtype != np.float64:
            return NotImplemented
        function, arguments, state = obj[:0].__reduce__()
        return function, arguments, (state[0], obj.shape, state[2], False, PLACEHOLDER)


def recording(n_units: int, *, has_time: bool) -> dict[str, Any]:
    """Return a recording in the published layout, with an array of zeros that takes no memory."""
    rng = np.random.default_rng(0)
    number = np.arange(n_units)
    # Animals of electrodes are recorded in all areas, those of a microscope in one; sizes as published.
    recording, animal = (number // 46, number // 276) if has_time else (number // 160, number // 160)
    columns = {
        "unit_id" if has_time else "cell_specimen_id": 950_000_000 + number,
        "specimen_id": 699_000_000 + animal,
        "visual_area": np.array(["VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam"])[recording % 6],
        "run_pval_ns" if has_time else "p_run_mod_ns": rng.uniform(size=n_units),
    }
    if not has_time:
        columns["reliability_mean"] = rng.uniform(size=n_units)
    units = pd.MultiIndex.from_arrays(list(columns.values()), names=list(columns))
    time_s = 0.005 + 0.01 * np.arange(N_BINS)
    sizes = {"trials": N_TRIALS, "frame_id": N_IMAGES}
    coords: dict[str, Any] = {
        "trials": np.arange(1, N_TRIALS + 1),
        "frame_id": np.arange(N_IMAGES),
        "units": units,
    }
    if has_time:
        sizes["time_relative_to_stimulus_onset"] = N_BINS
        coords["time_relative_to_stimulus_onset"] = time_s
    sizes["units"] = n_units
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray would rather be given a MultiIndex in another way
        array = xr.DataArray(np.broadcast_to(0.0, tuple(sizes.values())), dims=list(sizes), coords=coords)
    if has_time:
        for name in ("splithalf_r_mean", "splithalf_r_std"):
            values = (
                rng.uniform(0.1, 0.9, size=n_units)
                * np.where((time_s > 0.04) & (time_s < 0.2), 1, 0.3)[:, None]
            )
            array = array.assign_coords({name: (("time_relative_to_stimulus_onset", "units"), values)})
    return {"stimuli": _images(rng), "neural_data": array}


def _images(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Coarse patches with fine grain, so that they compress about as photographs do."""
    height, width = STIMULUS_PX
    coarse = rng.integers(20, 230, (N_IMAGES, height // 16 + 1, width // 16 + 1), dtype=np.uint8)
    patches = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return patches + rng.integers(0, 6, patches.shape, dtype=np.uint8)


def write_pickle(path: Path, content: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
    """Write the pickle and return where its numbers lie, and their shape."""
    header = io.BytesIO()
    _HeaderPickler(header, protocol=4).dump(content)
    raw = header.getvalue()
    operations = list(pickletools.genops(raw))
    ends = [position for _, _, position in operations[1:]] + [len(raw)]
    shape = content["neural_data"].shape
    offset = -1
    with path.open("wb") as file:
        for (operation, argument, start), end in zip(operations, ends, strict=True):
            if operation.name == "FRAME":
                continue  # frames are optional, and their lengths would be wrong now
            if argument == PLACEHOLDER:
                file.write(b"\x8e" + (8 * int(np.prod(shape))).to_bytes(8, "little"))
                offset = file.tell()
                _write_numbers(file, shape)
            else:
                file.write(raw[start:end])
        file.flush()
        os.fsync(file.fileno())
    return offset, shape


def _write_numbers(file: Any, shape: tuple[int, ...]) -> None:
    """Trial by trial, of units that are tuned to images; a trial shows each image as one of a few draws."""
    rng = np.random.default_rng(1)
    n_images, n_units = shape[1], shape[-1]
    tuning = rng.normal(size=(n_images, 5)) @ rng.normal(size=(5, n_units)) / np.sqrt(5)
    drawn = np.empty((6, *shape[1:]))
    rates_hz = rng.gamma(0.7, 12.0, size=n_units) * np.exp(0.5 * tuning)
    for trial in drawn:
        if len(shape) == 4:
            counts = rng.poisson(np.broadcast_to(rates_hz[:, None] * 0.01, shape[1:]))
            np.divide(counts.clip(max=254), 0.01, out=trial)
        else:
            np.add(0.3 * tuning, rng.normal(size=shape[1:]), out=trial)
    for number in range(shape[0]):
        trial = drawn[rng.integers(0, len(drawn), n_images), np.arange(n_images)]
        if number == 7:
            trial[3, ..., :20] = np.nan
        trial.tofile(file)


def forget_cached(path: Path) -> None:
    """Ask the system to drop the file from memory, so that each reading starts from disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(code: str, pickle_path: Path, *arguments: str) -> dict[str, Any]:
    """Run code in a process of its own and return what it measured."""
    forget_cached(pickle_path)
    command = [sys.executable, "-c", code + PEAK, str(pickle_path), *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {key: value for line in output.splitlines() for key, value in json.loads(line).items()}


def run(gigabytes: float, directory: Path, dataset: str) -> None:
    """Make, convert and remove one pickle; print what was measured."""
    has_time = dataset == "neuropixels"
    n_units = max(1, round(gigabytes * 1e9 / (8 * N_TRIALS * N_IMAGES * (N_BINS if has_time else 1))))
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path, target = Path(folder) / "recording.pkl", Path(folder) / "recording.h5"
        offset, shape = write_pickle(path, recording(n_units, has_time=has_time))
        megabytes = path.stat().st_size / 1e6
        print(f"{dataset}: {megabytes / 1e3:.2f} GB, responses {shape}")
        reading = timed(PLAIN_READ, path)
        _print("reading alone", reading, megabytes)
        done = timed(CONVERT, path, str(target), dataset)
        _print("convert_pickle", done, megabytes)
        print(f"    CPU {done['cpu']:.1f} s; stored as {done['stored_as']}, missing {done['missing']:.2e}")
        print(f"    {target.stat().st_size / 1e6:.0f} MB written and verified")
        target.unlink()
        simple = timed(SIMPLE_WAY, path, str(target), dataset, str(offset), json.dumps(shape))
        _print("numpy + HDF5 gzip, unverified", simple, megabytes)
        print(
            f"    convert_pickle takes {done['seconds'] / reading['seconds']:.2f} x reading alone,"
            f" {done['seconds'] / simple['seconds']:.2f} x numpy + HDF5"
        )


def _print(label: str, measured: dict[str, Any], megabytes: float) -> None:
    seconds = measured["seconds"]
    rate = f"{seconds:7.2f} s {megabytes / seconds:8.0f} MB/s"
    print(f"  {label:<30} {rate}   peak RSS {measured['peak_mb']:6.0f} MB")


def main() -> None:
    """Read the command line and run every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, nargs="+", default=[3.0], help="sizes of pickle to make")
    parser.add_argument("--dir", type=Path, default=None, help="where to make them (default: the system's)")
    parser.add_argument("--dataset", choices=["neuropixels", "calcium"], default="neuropixels")
    options = parser.parse_args()
    for gigabytes in options.gb:
        run(gigabytes, options.dir or Path(tempfile.gettempdir()), options.dataset)


if __name__ == "__main__":
    main()
