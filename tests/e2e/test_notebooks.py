"""The notebooks of the documentation run from top to bottom; workers and bars work in a kernel."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook in an empty folder with an empty home, and return it with its outputs."""
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MVKIT_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Also for kernels, which look for mvkit where the tests do.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")))
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def run(book: Any) -> Any:
        client = nbclient.NotebookClient(
            book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        return book

    return run


def outputs(cell: Any, kind: str) -> list[str]:
    """Return the outputs of one type: ``text/html``, ``image/png``; or a stream's text."""
    texts = [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]
    return texts + [output.text for output in cell.outputs if output.get("name") == kind]


def test_both_notebooks_are_there_without_outputs() -> None:
    assert NOTEBOOKS == ["models.ipynb", "recordings.ipynb"]
    for name in NOTEBOOKS:
        book = nbformat.read(FOLDER / name, as_version=4)
        nbformat.validate(book)
        for cell in book.cells:
            assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, execute: Any) -> None:
    if name == "recordings.ipynb" and not hasattr(import_module("mvkit.report.figures"), "draw_areas"):
        pytest.skip("the figures of areas are not here yet")
    book = execute(nbformat.read(FOLDER / name, as_version=4))
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    pictures = sum(len(outputs(cell, "image/png")) for cell in cells)
    tables = sum(len(outputs(cell, "text/html")) for cell in cells)
    assert (pictures, tables) >= ((2, 5) if name == "models.ipynb" else (5, 8))
    for cell in cells:
        for text in outputs(cell, "text/plain"):
            assert len(text) < 12_000


CELLS = [
    "import mvkit\ndataset = mvkit.open_dataset('simulated')\ndataset",
    "quick = {'n_splits': 1, 'n_halves': 4, 'cache': False, 'areas': 'VISp'}\n"
    "scores = mvkit.score('pixels', dataset, n_jobs=2, **quick)\nscores",
    "assert scores.table().equals(mvkit.score('pixels', dataset, n_jobs=1, progress=False, **quick).table())",
    "import numpy\nmvkit.compare_models({'a': scores, 'b': scores}).plot()",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq", "ignore::ResourceWarning")
def test_a_cell_shows_tables_bars_and_figures_and_starts_workers(execute: Any) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    first, second, third, fourth = execute(book).cells
    (table,) = outputs(first, "text/html")
    assert table.startswith("<div><strong>simulated: 118 images")
    bar, scores = outputs(second, "text/html")
    assert '<progress value="3" max="3">' in bar and "scoring pixels: 3 of 3" in bar
    assert "<th>VISp</th>" in scores
    assert not third.outputs
    (picture,) = outputs(fourth, "image/png")
    assert len(picture) > 5000
