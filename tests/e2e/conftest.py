"""A misbehaving file server, and the command line as a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SERVER = Path(__file__).parents[1] / "servers" / "faulty.py"


@pytest.fixture(scope="session")
def faulty() -> ModuleType:
    """The server's module: ``Fault`` and ``running``."""
    spec = importlib.util.spec_from_file_location("mvkit_faulty_server", SERVER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
    """Starts ``mvkit WORD ...``; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from mvkit.cli.main import main; main()", *words],
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
