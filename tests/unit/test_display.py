"""Progress bars and small tables."""

from __future__ import annotations

import re

import pytest

from mvkit import display
from mvkit.display import html_table, open_progress, progress_bar
from mvkit.errors import UsageError


def test_all_text_of_a_table_is_escaped() -> None:
    hostile = "<script>alert('x')</script>"
    table = html_table(hostile, (hostile,), [(hostile,)], note=hostile)
    assert "<script" not in table
    assert table.count("&lt;script&gt;") == 4


def test_cells_of_a_table() -> None:
    table = html_table("title", ("a", "b", "c", "d"), [("x", 1234, 0.5, float("nan"))])
    assert re.findall(r'<td style="text-align: (\w+)">([^<]*)</td>', table) == [
        ("left", "x"),
        ("right", "1,234"),
        ("right", "0.500"),
        ("right", ""),
    ]
    assert "http" not in table and "<style" not in table


def test_long_tables_are_cut() -> None:
    table = html_table("title", ("n",), [(number,) for number in range(100)])
    assert table.count("<td") == 30
    assert "... and 70 more rows" in table


def test_a_function_is_called_itself() -> None:
    seen: list[tuple[int, int]] = []
    with open_progress(lambda done, total: seen.append((done, total)), "work") as bar:
        assert bar is not None
        bar(1, 2)
    assert seen == [(1, 2)]


@pytest.mark.parametrize("progress", [None, False])
def test_scripts_whose_output_is_no_terminal_stay_silent(
    progress: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_progress(progress, "work") as bar:
        if bar is not None:
            bar(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_on_demand_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(True, "work") as bar:
        assert bar is not None
        bar(2, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "work" in shown.err and "2/2" in shown.err


def test_other_values_are_refused() -> None:
    with (
        pytest.raises(UsageError, match="progress: must be True, False, None or a function"),
        open_progress("yes", "work"),  # type: ignore[arg-type]
    ):
        pass


def test_a_notebook_gets_a_bar_whose_last_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], *, raw: bool) -> None:
            states.append(bundle["text/html"])

    class Module:
        @staticmethod
        def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
            states.append(bundle["text/html"])
            return Handle()

    monkeypatch.setattr(display, "is_notebook", lambda: True)
    monkeypatch.setattr(display, "import_module", lambda name: Module)
    with progress_bar("scoring <net>") as bar:
        for done in range(5):
            bar(done, 4)
    assert "scoring &lt;net&gt;: ..." in states[0]
    assert '<progress value="4" max="4">' in states[-1]
    assert "4 of 4" in states[-1]


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 0, "x: ..., 0:30"),
        (7, 0, "x: 7, 0:30"),
        (1, 4, "x: 1 of 4, 0:30 gone, about 1:30 left"),
        (4, 4, "x: 4 of 4, 0:30"),
    ],
)
def test_words_of_progress(done: int, total: int, text: str) -> None:
    assert display._progress_text("x", done, total, seconds=30.0) == text


def test_this_is_no_notebook() -> None:
    assert not display.is_notebook()
