"""Fixtures of the tests around AllenSDK, which run in both environments as far as each can."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
# The generator's modules import one another.
sys.path.insert(0, str(HERE))

from sessions import draw_session, scene_templates  # noqa: E402


@pytest.fixture(scope="session")
def allen_files() -> Path:
    """Folder of small session files in the layout of AllenSDK's project cache, with their truth."""
    return HERE / "files"


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """The module that reads with AllenSDK, in the environment that has it."""
    if importlib.util.find_spec("allensdk") is None:
        pytest.skip("AllenSDK is not installed in this environment: `make test-allen` runs this test")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import oracle as module

    return module


@pytest.fixture(scope="session")
def full_folder(oracle: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one session with all 118 scenes, 50 presentations each, written now."""
    import warnings

    from cache_folder import write_folder

    folder = tmp_path_factory.mktemp("full")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_folder(folder, [full_session()], scene_templates(118))
    return folder


def full_session() -> Any:
    """A session with all scenes, one of them shown 47 times."""
    return draw_session(
        7200, units_per_area={"VISp": 2, "VISal": 1}, seed=9, n_frames=118, fewer={5: 47}, invalid_trials=(3,)
    )


@pytest.fixture
def warehouse(allen_files: Path) -> Iterator[Any]:
    """A server on this machine that answers as the Allen Institute's warehouse does."""
    from warehouse import running

    with running(allen_files) as server:
        yield server
