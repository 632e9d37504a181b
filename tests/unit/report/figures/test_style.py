"""Style of figures: files, fonts, colours, legend, small print."""

from __future__ import annotations

import re
import sys
import zlib
from pathlib import Path

import matplotlib
import pytest
from matplotlib.lines import Line2D

from mvkit.errors import UsageError
from mvkit.report.figures.style import (
    FORMATS,
    PALETTE,
    FigureStyle,
    caption_of,
    check_figure,
    check_suffix,
    looks,
    new_figure,
    own_look,
    row_major,
    save_figure,
    wrap,
)


def sample(style: FigureStyle | None = None):
    handles = [Line2D([], [], label=f"model {index}") for index in range(5)]
    with own_look():
        figure = new_figure(
            3.5,
            1.5,
            title="A title of some words on recordings of mice and other animals",
            note="Small print; a second part",
            x_label="depth",
            y_label="score",
            handles=handles,
            style=style,
        )
        figure.subplots().plot([0, 1], [0, 1], label="line")
    return figure


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_figures_are_equal_files(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / "deep" / f"second{suffix}"
    assert save_figure(sample(), first) == first
    save_figure(sample(), second)
    assert first.read_bytes() == second.read_bytes()
    start = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert first.read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", first.name]


def test_fonts_of_pdf_are_truetype(tmp_path: Path) -> None:
    content = save_figure(sample(), tmp_path / "a.pdf").read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S)
    unpacked = content + b"".join(
        zlib.decompressobj().decompress(part) for part in streams if part[:1] == b"x"
    )
    assert b"/FontFile2" in unpacked and b"/Type3" not in unpacked


def test_text_of_svg_is_text_on_request(tmp_path: Path) -> None:
    outlines = save_figure(sample(), tmp_path / "a.svg").read_text()
    text = save_figure(sample(), tmp_path / "b.svg", text=True).read_text()
    assert "<text" not in outlines
    assert "model 3</text>" in text and "sans-serif" in text


def test_pixels_follow_from_width_and_dpi(tmp_path: Path) -> None:
    def size(path: Path) -> tuple[int, int]:
        data = path.read_bytes()
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

    figure = sample()
    assert size(save_figure(figure, tmp_path / "a.png"))[0] == 1050
    assert size(save_figure(figure, tmp_path / "b.png", dpi=100))[0] == 350
    with pytest.raises(UsageError, match="dpi of 5: give 10 to 2400"):
        save_figure(figure, tmp_path / "c.png", dpi=5)


def test_widths() -> None:
    assert FigureStyle().width(1) == 3.5 and FigureStyle().width(2) == 7.2
    assert FigureStyle(5.0).width(1) == 5.0
    with pytest.raises(UsageError, match=r"width of 0\.5 inches: give 2 to 30"):
        FigureStyle(0.5)


def test_without_titles_the_caption_still_says_all() -> None:
    bare, full = sample(FigureStyle(titles=False)), sample()
    written = {text.get_gid() for text in full.texts}
    assert {"title", "note"} <= written
    assert not {"title", "note"} & {text.get_gid() for text in bare.texts}
    assert caption_of(bare) == caption_of(full)
    assert caption_of(full).startswith("A title of some words") and caption_of(full).endswith("second part.")
    assert bare.get_figheight() < full.get_figheight()
    assert caption_of(matplotlib.figure.Figure()) == ""


def test_parts_of_a_figure_neither_overlap_nor_leave_it() -> None:
    figure = sample()
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    boxes += [axes.get_tightbbox() for axes in figure.axes]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 + 0.5 and box.y1 <= figure.bbox.y1 + 0.5
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.parametrize(("n", "n_columns"), [(5, 3), (4, 2), (7, 4), (3, 1), (1, 1), (6, 3)])
def test_legends_are_read_row_by_row(n: int, n_columns: int) -> None:
    from numpy import array_split

    # How matplotlib fills a legend: column by column.
    columns = [list(part) for part in array_split(row_major(n, n_columns), n_columns)]
    rows = [column[row] for row in range(len(columns[0])) for column in columns if row < len(column)]
    assert rows == list(range(n))


def test_a_legend_shows_its_entries_in_order() -> None:
    figure = sample()
    figure.canvas.draw()
    texts = figure.legends[0].get_texts()
    places = [
        (-round(text.get_window_extent().y0), text.get_window_extent().x0, text.get_text()) for text in texts
    ]
    assert [text for _, _, text in sorted(places)] == [f"model {index}" for index in range(5)]


def test_long_lines_are_broken_between_words() -> None:
    with own_look():
        figure = new_figure(3.5, 1.0)
        lines = wrap(figure, "one two three four five six seven eight nine ten", 1.0, 7.0)
        assert len(lines) > 2 and " ".join(lines).split()[-1] == "ten"
        text = "whiskers: 95\N{NO-BREAK SPACE}% intervals over animals"
        for width in (0.6, 0.8, 1.0, 1.4):
            lines = wrap(figure, text, width, 7.0)
            assert " ".join(lines) == text and not any(line.startswith("%") for line in lines)
        # A name without spaces is broken where it must be.
        broken = wrap(figure, 30 * "name_", 1.0, 7.0)
        assert len(broken) > 3 and "".join(broken) == 30 * "name_"


def test_colours_belong_to_names_not_to_places() -> None:
    names = ["pixels", "alexnet_bn_ir", "my_model", "runs/a", "gabor"]
    forward, backward = looks(names), looks(names[::-1])
    assert forward == backward
    assert list(forward) == names
    assert looks(["alexnet_bn_ir"])["alexnet_bn_ir"] == forward["alexnet_bn_ir"]
    assert forward["pixels"].colour == "#BBBBBB" and forward["gabor"].colour == "#777777"


def test_models_of_one_figure_differ() -> None:
    names = [f"model_{index}" for index in range(len(PALETTE))]
    assert len({look.colour for look in looks(names).values()}) == len(PALETTE)
    assert len(looks([f"model_{index}" for index in range(30)])) == 30


def test_random_weights_have_the_colour_of_the_model_but_hatched() -> None:
    names = ["alexnet_bn_ir", "alexnet_bn_ir (random, seed 0)", "alexnet_bn_ir (random, seed 1)"]
    trained, first, second = looks(names).values()
    assert trained.colour == first.colour and not trained.random and first.random
    assert second.colour != first.colour
    assert "hatch" in first.bar() and "hatch" not in trained.bar()


def test_a_users_settings_of_matplotlib_neither_matter_nor_change(tmp_path: Path) -> None:
    save_figure(sample(), tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30.0, "svg.hashsalt": "mine", "axes.spines.top": True}):
        save_figure(sample(), tmp_path / "mine.svg")
        assert matplotlib.rcParams["font.size"] == 30.0
        assert matplotlib.rcParams["svg.hashsalt"] == "mine"
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "mine.svg").read_bytes()


@pytest.mark.parametrize("name", ["scores.jpg", "scores", "scores.svgz"])
def test_unknown_formats_are_refused_naming_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"valid: \.svg, \.png, \.pdf"):
        save_figure(sample(), tmp_path / name)
    assert not list(tmp_path.iterdir())
    check_suffix(tmp_path / "SCORES.PNG")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.png"
    folder.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_figure(folder)


def test_a_failed_save_leaves_no_file(tmp_path: Path) -> None:
    figure = sample()
    figure.text(0.5, 0.5, "$\\nonsense$")
    with pytest.raises(ValueError):
        save_figure(figure, tmp_path / "layers.svg")
    assert not list(tmp_path.iterdir())


def test_notebooks_show_a_figure_without_pyplot() -> None:
    assert sample()._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
