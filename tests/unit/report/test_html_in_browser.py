"""The HTML report in a real browser: it draws, sorts, filters, shows values, prints, and asks for nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun
from mvkit.report.html import write_report
from mvkit.scoring import Scores
from mvkit.scoring.comparison import compare_models, fraction_of_ceiling

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_SCORE = "\u2013"
AREAS = ("VISp", "VISl", "VISal", "VISpm")
#: A name that would be markup if it were not escaped.
NAME = "net <b>&\"'</b></script><script>window.broken = 1</script>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, scores_of: Callable[..., Scores]) -> Path:
    """A report of two models with a ceiling, a comparison, a unit without a score and an excluded one."""
    random = np.random.default_rng(0)
    layers = [f"block{number}.a_rather_long_name_of_a_layer" for number in range(9)]

    def values(names: list[str], centre: float) -> dict[tuple[str, str], list[float]]:
        return {(layer, area): list(random.normal(centre, 0.1, 4)) for layer in names for area in AREAS}

    deep = values(layers, 0.4)
    for layer in layers:
        deep[layer, "VISl"][3] = np.nan
    context = {"dataset": "mice"}
    models = {
        "pixels": scores_of(values(["pixels"], 0.1), {**context, "model": "pixels"}),
        NAME: scores_of(deep, {**context, "model": NAME}),
    }
    ceiling = scores_of(values(["holdout"], 0.6), {**context, "model": "ceiling"})
    scored = {name: models["pixels"].columns[name].tolist() for name in ("unit_id", "specimen", "area")}
    selection = SelectionOutcome(
        unit_ids=np.array([*scored["unit_id"], 99]),
        specimens=np.array([*scored["specimen"], 77]),
        areas=np.array([*scored["area"], "VISp"]),
        reasons=np.array([*("" for _ in scored["area"]), "reliability"]),
        min_units={},
        settings=SelectionSettings(),
        threshold=0.75,
    )
    run = ScoreRun(
        models,
        {},
        ceiling=ceiling,
        fractions={name: fraction_of_ceiling(scores, ceiling) for name, scores in models.items()},
        comparison=compare_models(models),
        selection=selection,
    )
    return write_report(run, tmp_path_factory.mktemp("report") / "report.html", command="mvkit score")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class OpenPage:
    """A page with all that it complained about and asked for."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.context.set_default_timeout(5000)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def texts(self, selector: str) -> list[str]:
        """Texts of all elements of a selector."""
        texts: list[str] = self.page.locator(selector).all_inner_texts()
        return texts


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Callable[..., OpenPage]]:
    """Opens the report; ``width`` and ``scheme`` (light, dark)."""
    opened: list[OpenPage] = []

    def open_one(**options: Any) -> OpenPage:
        opened.append(OpenPage(browser, page_file, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_draws_without_errors_requests_or_overflow(
    open_page: Callable[..., OpenPage], page_file: Path, width: int, scheme: str
) -> None:
    opened = open_page(width=width, scheme=scheme)
    assert opened.faults == []
    assert opened.requests == [page_file.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert opened.page.locator(".figure svg").count() == 4
    assert opened.page.evaluate("window.broken") is None
    assert opened.texts("h1") == ["2 models on mice"]
    assert opened.page.locator("math").bounding_box()["height"] > 30


def test_the_ranking_has_the_medians(open_page: Callable[..., OpenPage], page_file: Path) -> None:
    opened = open_page()
    data = json.loads(opened.page.locator("#data").text_content())
    medians = {model["name"]: model["best"][-1]["median"] for model in data["models"]}
    rows = opened.page.locator("#ranking-table tbody tr")
    assert rows.nth(0).locator("td").nth(1).inner_text().strip() == NAME
    assert rows.nth(0).locator("td").nth(2).inner_text().startswith(f"{medians[NAME]:.3f} [")
    assert rows.nth(1).locator("td").nth(2).inner_text().startswith(f"{medians['pixels']:.3f} [")
    assert (
        "lower" in opened.page.locator("#pairs").inner_text()
        or "not resolved" in opened.page.locator("#pairs").inner_text()
    )


def test_heads_sort_and_say_so(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    medians = "#layer-table tbody td:nth-child(4)"
    head = opened.page.locator("#layer-table th").nth(3)
    before = opened.texts(medians)
    head.locator("button").click()
    descending = opened.texts(medians)
    assert head.get_attribute("aria-sort") == "descending"
    numbers = [float(text) for text in descending]
    assert numbers == sorted(numbers, reverse=True)
    assert descending != before
    # By the keyboard, and the other way round.
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    numbers = [float(text) for text in opened.texts(medians)]
    assert numbers == sorted(numbers)
    assert opened.page.locator("#layer-table [aria-sort]").count() == 1


def test_missing_scores_come_last_either_way(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    head = opened.page.locator("#unit-table th button").filter(has_text=re.compile("^Score$"))
    for _ in range(2):
        head.click()
        assert opened.texts("#unit-table tbody td:nth-child(5)")[-1] == NO_SCORE


def test_filters_and_search_leave_fewer_rows(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    page = opened.page
    status, filters = page.locator("#unit-table .status"), page.locator("#unit-filters")
    # Best model first, with the excluded unit.
    assert status.inner_text() == "17 rows (filtered from 33)"
    filters.get_by_label("Area").select_option("VISl")
    assert status.inner_text() == "4 rows (filtered from 33)"
    assert set(opened.texts("#unit-table tbody td:nth-child(2)")) == {"VISl"}
    # The animal of the fourth unit, which has no score.
    units = json.loads(page.locator("#data").text_content())["units"]
    filters.get_by_label("Animal").select_option(units["animals"][units["animal"][3]])
    n_rows = units["animal"][:4].count(units["animal"][3])
    assert status.inner_text() == f"{n_rows} row{'' if n_rows == 1 else 's'} (filtered from 33)"
    filters.get_by_label("Score").select_option("constant response")
    assert status.inner_text() == "1 row (filtered from 33)"
    for label, value in (("Area", ""), ("Animal", "")):
        filters.get_by_label(label).select_option(value)
    filters.get_by_label("Score").select_option("excluded by the selection")
    assert opened.texts("#unit-table tbody td:last-child") == ["excluded: reliability too low"]
    filters.get_by_label("Score").select_option("")
    filters.get_by_label("Search").fill("99")
    assert status.inner_text() == "1 row (filtered from 33)"
    filters.get_by_label("Search").fill("no such thing")
    assert status.inner_text() == "No rows pass the filters (filtered from 33)."
    filters.get_by_label("Search").fill("")
    filters.get_by_label("Reliability at least").fill("0.6")
    assert status.inner_text().startswith("No rows")
    filters.get_by_label("Reliability at least").fill("0.5")
    # All 16 of the model have a reliability of 0.5; the excluded one has none.
    assert status.inner_text() == "16 rows (filtered from 33)"
    assert "15 points" in page.locator("#scatter-caption").inner_text()


def test_layers_are_filtered_and_paged(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    status = opened.page.locator("#layer-table .status")
    assert status.inner_text() == "rows 1 to 25 of 50"
    opened.page.locator("#layer-table .pager button", has_text="Next").click()
    assert status.inner_text() == "rows 26 to 50 of 50"
    opened.page.get_by_label("Layer contains").fill("BLOCK3")
    assert status.inner_text() == "5 rows (filtered from 50)"
    opened.page.get_by_label("Layer contains").fill("")
    opened.page.get_by_label("Show").select_option("highest of each area")
    assert status.inner_text() == "10 rows (filtered from 50)"


@pytest.mark.parametrize("figure", ["areas-figure", "layers-figure", "distribution-figure", "scatter"])
def test_pointer_and_arrow_keys_show_values(open_page: Callable[..., OpenPage], figure: str) -> None:
    opened = open_page()
    svg = opened.page.locator(f"#{figure} svg")
    tip = opened.page.locator("#tip")
    assert tip.is_hidden()
    svg.focus()
    opened.page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    assert any(character.isdigit() for character in first)
    opened.page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    opened.page.keyboard.press("Escape")
    assert tip.is_hidden()
    opened.page.keyboard.press("ArrowRight")
    ring = svg.locator(".ring").bounding_box()
    opened.page.keyboard.press("Escape")
    # The pointer over the same mark shows the same.
    opened.page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    assert tip.is_visible()
    assert tip.inner_text() == first
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280


def test_the_figure_of_areas_has_the_values_of_the_results(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    data = json.loads(opened.page.locator("#data").text_content())
    opened.page.locator("#areas-figure svg").focus()
    told = set()
    for _ in range(80):
        opened.page.keyboard.press("ArrowRight")
        told.add(opened.page.locator("#tip").inner_text())
    for model in data["models"]:
        for row in model["best"]:
            words = f"{data['areaNames'][row['area']]}: {row['median']:.3f}"
            assert any(model["name"] in text and words in text for text in told), words


def test_rows_are_downloaded_and_the_reference_copied(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    opened.page.get_by_label("Search").fill("99")
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Download these rows").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("model,area,animal,unit_id,layer,score")
    assert lines[1:] == [",VISp,77,99,,,,,,,excluded: reliability too low"]
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy the BibTeX entry").click()
    opened.page.get_by_text("Copied.").wait_for()
    assert "e1011506" in opened.page.evaluate("navigator.clipboard.readText()")


def test_it_prints_with_every_row_on_light_pages(open_page: Callable[..., OpenPage], tmp_path: Path) -> None:
    opened = open_page(scheme="dark")
    printed = opened.page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 4
    # What the paper shows, and that the screen has its pages back afterwards.
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("#layer-table tbody tr").count() == 50
    assert opened.page.locator(".filters").first.is_hidden()
    body = "getComputedStyle(document.body)"
    assert opened.page.evaluate(f"[{body}.color, {body}.backgroundColor]") == [
        "rgb(28, 31, 35)",
        "rgb(255, 255, 255)",
    ]
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("#layer-table tbody tr").count() == 25


#: Elements without a name for screen readers, ids that are there twice, and the order of headings.
NAMES = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const named = one => (one.labels && one.labels.length) || one.getAttribute("aria-label") ||
    (one.tagName === "BUTTON" && one.textContent.trim());
  const needing = all("input, select, button, svg[tabindex], [role=region], table.wide");
  const ids = all("[id]").map(one => one.id);
  const levels = all("h1, h2, h3").map(one => Number(one.tagName[1]));
  return {
    unnamed: needing.filter(one => !named(one)).map(one => one.outerHTML.slice(0, 80)),
    twice: ids.filter((id, at) => ids.indexOf(id) !== at),
    skipped: levels.filter((level, at) => at && level > levels[at - 1] + 1),
    first: levels[0],
    broken: all("nav a").map(one => one.hash).filter(hash => !document.querySelector(hash)),
    language: document.documentElement.lang,
    heads: all("th").filter(one => !one.scope).length,
  };
}"""

#: Text of the page whose contrast with the nearest background is below 4.5 (WCAG 2, AA).
CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
  const light = colour => colour.slice(0, 3).map(one => linear(one / 255))
    .reduce((sum, one, at) => sum + one * [.2126, .7152, .0722][at], 0);
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  const clear = node => parse(getComputedStyle(node).backgroundColor)[3] === 0;
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest("script, noscript, style, :disabled, option")) continue;
    if (!node.getClientRects().length) continue;
    let behind = node;
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const style = getComputedStyle(node), ink = parse(node instanceof SVGElement ? style.fill : style.color);
    const value = ratio(ink, parse(getComputedStyle(behind).backgroundColor));
    if (value < 4.5) poor.push(`${node.tagName} ${node.textContent.trim().slice(0, 30)} ${value.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_contrast(open_page: Callable[..., OpenPage], scheme: str) -> None:
    opened = open_page(scheme=scheme)
    assert opened.page.evaluate(NAMES) == {
        "unnamed": [],
        "twice": [],
        "skipped": [],
        "first": 1,
        "broken": [],
        "language": "en",
        "heads": 0,
    }
    assert opened.page.evaluate(CONTRAST) == []


def test_focus_is_visible_from_the_first_key_on(open_page: Callable[..., OpenPage]) -> None:
    opened = open_page()
    opened.page.keyboard.press("Tab")
    active = "document.activeElement"
    assert opened.page.evaluate(f"{active}.textContent") == "Skip to the content"
    assert opened.page.locator("a.skip").bounding_box()["x"] >= 0
    reached = set()
    for _ in range(60):
        opened.page.keyboard.press("Tab")
        style = opened.page.evaluate(f"getComputedStyle({active}).outlineStyle")
        tag = opened.page.evaluate(f"{active}.tagName.toLowerCase()")
        reached.add(tag)
        assert style == "solid" or tag == "body", tag
    assert {"a", "button", "select", "svg"} <= reached
