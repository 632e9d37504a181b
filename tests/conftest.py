"""Fixtures that every test may use: where goldens, legacy files and recordings lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"


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
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path_factory.mktemp("mvkit_home")))
