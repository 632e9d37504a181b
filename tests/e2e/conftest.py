"""A misbehaving file server, the command line as a process of its own, recordings, images to train on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from mvkit.neural import Recording, convert_pickle, write_neural_file

DEMO_IMAGES = Path(__file__).parent.parent.parent / "scripts" / "make_demo_images.py"


@pytest.fixture
def server(faulty: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running server to which both mirrors point; proxies of the machine do not stand between."""
    with faulty.running() as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("MVKIT_CHECKPOINT_URL", running.url)
        monkeypatch.setenv("MVKIT_NEURAL_URL", f"{running.url}/")
        yield running


@pytest.fixture
def mvkit_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``mvkit WORD ...``, after Python code ``before`` if given."""
    # A shell that runs the tests in the background has them ignore SIGINT, and children inherit that.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, before: str = "", **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{listen}\n{before}\nfrom mvkit.cli.main import main; main()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool], subprocess.Popen[str]], None]:
    """Waits for a moment, two minutes at most, while a process runs."""

    def wait(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 120
        while not moment():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "the moment did not come"
            time.sleep(0.002)

    return wait


@pytest.fixture
def pickled(legacy: Path) -> bytes:
    """A small pickle of the published neuropixels layout."""
    files = (legacy / "odd" / "resaved").glob("*.pkl")
    return max(files, key=lambda path: (path.stat().st_size, path.name)).read_bytes()


@pytest.fixture
def served(server: Any, pickled: bytes) -> Any:
    """The server with that pickle."""
    server.put("mouse_neuropixels_visual_data_with_reliabilities.pkl", pickled)
    return server


@pytest.fixture
def expected(pickled: bytes, tmp_path: Path) -> Path:
    """The neural file that a conversion of it without accidents gives."""
    source = tmp_path / "expected.pkl"
    source.write_bytes(pickled)
    convert_pickle(source, tmp_path / "expected.h5", dataset="neuropixels")
    return tmp_path / "expected.h5"


@pytest.fixture(scope="session")
def same_arrays() -> Callable[[Path, Path], bool]:
    """Tells whether two HDF5 files hold the same arrays, byte by byte (text: by value)."""

    def arrays(path: Path) -> dict[str, tuple[str, tuple[int, ...], object]]:
        found: dict[str, tuple[str, tuple[int, ...], object]] = {}

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                values = np.asarray(item[()])
                content = values.tolist() if values.dtype.kind == "O" else values.tobytes()
                found[name] = (str(values.dtype), values.shape, content)

        with h5py.File(path) as file:
            file.visititems(note)
        return found

    return lambda one, other: arrays(one) == arrays(other)


@pytest.fixture(scope="session")
def neural_file(tmp_path_factory: pytest.TempPathFactory, real_recordings: Path) -> Path:
    """The real recordings as a neural file, written as users would write their own."""
    recordings = []
    for path in sorted(real_recordings.glob("responses_*.npz")):
        arrays = np.load(path)
        for key in arrays.files:
            if key.startswith("values_"):
                specimen = int(key.removeprefix("values_"))
                recordings.append(
                    Recording(
                        area=path.stem.removeprefix("responses_"),
                        specimen=specimen,
                        unit_ids=arrays[f"unit_id_{specimen}"],
                        responses=arrays[key],
                    )
                )
    scenes = [np.asarray(Image.open(path)) for path in sorted((real_recordings / "stimuli").glob("*.png"))]
    target = tmp_path_factory.mktemp("real") / "real.h5"
    write_neural_file(target, recordings=recordings, stimuli=np.stack(scenes), units_of_measure="spikes/s")
    return target


@pytest.fixture(scope="session")
def demo_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 training and 24 validation images in 12 classes, made as for the demo."""
    folder = tmp_path_factory.mktemp("images")
    counts = ["--train", "60", "--val", "24"]
    subprocess.run([sys.executable, str(DEMO_IMAGES), str(folder), *counts], check=True, capture_output=True)
    return folder
