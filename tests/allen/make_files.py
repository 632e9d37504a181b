"""Make tests/allen/files: ``/path/to/allensdk/bin/python tests/allen/make_files.py`` (needs pynwb 2).

Three small sessions of known spike times: a usual one; one of another animal that lacks areas, with 47 of 50
presentations of a scene and a failing screen; one cut short. The truth lies beside: ``truth_SESSION.npz``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from cache_folder import write_folder, write_truth  # noqa: E402
from sessions import draw_session, scene_templates  # noqa: E402

N_FRAMES = 12
EVERY_AREA = {"VISp": 4, "VISl": 2, "VISal": 2, "VISpm": 2, "VISrl": 2, "VISam": 2}


def made_sessions() -> list:
    """Return the three sessions."""
    return [
        draw_session(7101, units_per_area=EVERY_AREA, seed=1),
        draw_session(
            7102,
            units_per_area={"VISp": 5, "VISam": 3},
            seed=2,
            fewer={3: 47, 7: 49},
            invalid_trials=(10, 11, 200),
        ),
        draw_session(
            7103, units_per_area={"VISp": 3, "VISl": 4}, seed=3, cut_short=(5, 6, 40), stop_after=560
        ),
    ]


def main(folder: Path) -> None:
    """Replace the files."""
    shutil.rmtree(folder, ignore_errors=True)
    templates = scene_templates(N_FRAMES)
    write_folder(folder, made_sessions(), templates)
    for session in made_sessions():
        write_truth(folder / f"truth_{session.session_id}.npz", session, templates)


if __name__ == "__main__":
    main(HERE / "files")
