"""Fixtures that every test may use: where goldens, legacy files and recordings lie."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"
SERVER = HERE / "servers" / "faulty.py"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of numbers computed with the reference implementation."""
    return Path(os.environ.get("MVKIT_GOLDENS") or HERE / "goldens")


@pytest.fixture(scope="session")
def golden_seed(goldens: Path) -> int:
    """SEED of the deterministic filling rule of that folder."""
    meta = goldens / "meta.json"
    return int(json.loads(meta.read_text())["seed"]) if meta.exists() else 1


@pytest.fixture(scope="session")
def legacy() -> Path:
    """Folder of files in the published pickle format; ``odd/`` always exists, ``published/`` may not."""
    chosen = os.environ.get("MVKIT_LEGACY")
    if chosen:
        return Path(chosen)
    shared = SHARED / "legacy"
    return shared if shared.is_dir() else HERE / "legacy"


@pytest.fixture(scope="session")
def legacy_published(legacy: Path) -> Path:
    """Folder of the stand-ins for the two published pickles."""
    folder = legacy / "published"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: the published-format pickles lie outside the project")
    return folder


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """Folder of real Neuropixels responses and the 118 scenes."""
    folder = Path(os.environ.get("MVKIT_REAL_NEUROPIXELS") or SHARED / "real_neuropixels")
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: real recordings lie outside the project")
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's own mvkit home and settings."""
    for name in ("MVKIT_OFFLINE", "MVKIT_CHECKPOINT_URL", "MVKIT_NEURAL_URL"):
        monkeypatch.delenv(name, raising=False)
    # Made by those that need one: thousands of numbered folders side by side take long to number.
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path_factory.getbasetemp() / f"home_{uuid.uuid4().hex}"))


@pytest.fixture(scope="session")
def faulty() -> ModuleType:
    """The misbehaving file server's module: ``Fault`` and ``running``."""
    spec = importlib.util.spec_from_file_location("mvkit_faulty_server", SERVER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def allen_python() -> Any:
    """An interpreter that has AllenSDK: this one, or one found beside."""
    from mvkit.allen.environment import find_allen_python
    from mvkit.errors import MissingPackageError

    try:
        return find_allen_python()
    except MissingPackageError:
        pytest.skip("no AllenSDK here: run `make allen`, or name its Python in MVKIT_ALLEN_PYTHON")
