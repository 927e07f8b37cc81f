"""The page as people see it, in headless Chromium: nothing overlaps, is cut off or scrolls sideways, on a desk, on a
tablet and on a phone, in the light and in the dark scheme, with and without scripts.
"""

import shutil
from pathlib import Path

import pytest
from test_analysis import fill, put, studied
from test_analysis_comparisons import one_at_a_time
from test_analysis_studies import joint, put_bar

from analysis.page import html as page
from lps.agents.variants import PANELS
from lps.runs.store import Store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "example"
WIDTHS = (1440, 800, 390)
SCHEMES = ("light", "dark")

# What is wrong in the page, as texts. A text of a chart must lie in its panel and on no other one. Rotated texts are
# left out of this: the box around them is larger than they are.
FAULTS = """() => {
  const found = [], box = (element) => element.getBoundingClientRect();
  const name = (element) => `${element.tagName} "${element.textContent.trim().slice(0, 40)}"`;
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
  for (const element of document.querySelectorAll("h1, h2, h3, h4, p, li, button, figcaption, summary, th, td")) {
    const { left, right, width } = box(element);
    if (!width || element.closest(".wide, nav")) continue;
    if (left < 0 || right > innerWidth + 1) found.push(`beside the page: ${name(element)}`);
    if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth) found.push(`cut off: ${name(element)}`);
  }
  for (const panel of document.querySelectorAll(".panel")) {
    if (!box(panel).width) continue;
    const area = box(panel);
    const texts = [...panel.querySelectorAll("svg text")].filter((text) => {
      const { a, b } = text.getCTM();
      return text.textContent.trim() && box(text).width && getComputedStyle(text).opacity > 0 && (!a || !b);
    });
    if (!texts.length) found.push(`no text in ${panel.querySelector(".chart").id}`);
    const boxes = texts.map(box);
    boxes.forEach((one, i) => {
      if (one.left < area.left - 2 || one.right > area.right + 2 || one.top < area.top || one.bottom > area.bottom + 2)
        found.push(`beyond its panel: ${name(texts[i])} in ${panel.querySelector(".chart").id}`);
      boxes.slice(i + 1).forEach((two, j) => {
        const across = Math.min(one.right, two.right) - Math.max(one.left, two.left);
        const down = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
        if (across > 1 && down > 3) found.push(`on each other: ${name(texts[i])} and ${name(texts[i + 1 + j])}`);
      });
    });
  }
  const blocks = [...document.querySelectorAll("main h1, main h2, main h3, main figure, main p, main .wide")]
    .filter((block) => block.checkVisibility() && box(block).height && !block.parentElement.closest("figure, .wide"));
  blocks.slice(1).forEach((block, i) => {
    if (box(blocks[i]).bottom > box(block).top + 1) found.push(`under each other: ${name(blocks[i])}, ${name(block)}`);
  });
  return found;
}"""


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["one group", "several groups", "studies"])
def file(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    results = EXAMPLE / "cube-single-30k"
    if request.param == "several groups":
        agents = ("lps", "dsrl", "qcfql", "flow_bc", "a_method_with_a_long_name")
        results = fill(folder / "results", agents, groups=("cube-single", "cube-double", "puzzle-4x6"), seeds=3)
        put(results, "best_of_n", hyperparameters={"num_samples": 4})
    elif request.param == "studies":
        results = studies(folder / "results")
    page.write(studied(results), folder / "page.html")
    return folder / "page.html"


def studies(path: Path) -> Path:
    """Results of a study of every kind, with every figure but those of the ring bandit and of latents."""
    joint(path, points=8)
    one_at_a_time(path)
    for i, bar in enumerate(dict.fromkeys(bar for panel in PANELS.values() for bar in panel.bars)):
        put_bar(path, bar, 0.1 * (i % 10), group="cube-double")
    store = Store(path)
    gflop = {run: 4.0 + i % 2 for i, run in enumerate(studied(path).runs.index)}
    store.write_study("flops", {"gflop": gflop})
    rows = [
        {"agent": name, "update_ms": 70.0 * i, "memory_mib": 1234.0, "decision_ms": 0.3 / i}
        for i, name in enumerate(("lps", "dsrl", "a_method_that_was_only_measured"), 1)
    ]
    store.write_study("compute", {"rows": rows, "device": "a machine", "torch": "2", "threads": 1})
    tuning = {"agent": "lps", "trials": [{"state": "COMPLETE", "hyperparameters": {}}] * 10, "held_out": {}}
    store.write_study("tuning-lps", {**tuning, "importances": {"lr": 0.7, "alpha": 0.1}})
    return path


def opened(chromium, file: Path, **options):
    """The page in a browser of its own, and the list of what that browser complains about."""
    context = chromium.new_context(offline=True, **options)
    tab, complaints = context.new_page(), []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
    tab.goto(file.as_uri())
    if options.get("java_script_enabled", True):
        tab.wait_for_selector("html.drawn")
    return tab, complaints


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_is_cut_off_or_scrolls_sideways(chromium, file, width, scheme):
    tab, complaints = opened(chromium, file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert tab.evaluate(FAULTS) == []
    assert complaints == []
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is (scheme == "light")
    assert tab.evaluate("document.querySelector('.headline').getBoundingClientRect().top") < 450, "the answer is on top"
    assert not tab.locator(".interactive .picture").first.is_visible()
    tab.evaluate("scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
    assert abs(tab.evaluate("document.querySelector('nav').getBoundingClientRect().top")) < 1, (
        "the contents stay in view"
    )
    tab.context.close()


@pytest.mark.parametrize("width", (1440, 390))
def test_without_scripts_the_pictures_are_shown(chromium, file, width):
    tab, complaints = opened(
        chromium, file, viewport={"width": width, "height": 900}, java_script_enabled=False, color_scheme="dark"
    )
    assert tab.locator("figure .picture").first.is_visible()
    for hidden in (".panels", ".legend"):
        assert not tab.locator(hidden).first.is_visible()
    assert [one for one in tab.locator("figure").all() if one.bounding_box()["width"] > width] == []
    assert complaints == []
    tab.context.close()


def test_a_legend_switches_series_and_a_point_tells_its_interval(chromium, file):
    tab, complaints = opened(chromium, file, viewport={"width": 1440, "height": 900})
    chart, button = tab.locator("#chart-curves-0"), tab.locator("#figure-curves [data-series='LPS']")
    lines = chart.locator(".mark-line path")
    count = lines.count()
    button.click()
    sync_api.expect(lines).to_have_count(count - 1)
    everywhere = tab.locator("[data-series='LPS']")
    assert {one.get_attribute("aria-pressed") for one in everywhere.all()} == {"false"}
    button.click()
    sync_api.expect(lines).to_have_count(count)
    points = chart.locator(".mark-symbol path")
    points.nth(points.count() - 1).hover(force=True)
    tip = tab.locator("#vg-tooltip-element")
    sync_api.expect(tip).to_be_visible()
    assert "undefined" not in tip.inner_text() and "%" in tip.inner_text().replace("95 %", "")
    assert all(word in tip.inner_text() for word in ("method", "updates", "success", "95 % interval", "seeds"))
    assert complaints == []
    tab.context.close()


def test_on_paper_the_ink_is_dark_and_nothing_is_folded(chromium, file):
    tab, _ = opened(chromium, file, viewport={"width": 800, "height": 900}, color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible() and tab.locator(".legend").first.is_visible()
    assert tab.pdf()[:4] == b"%PDF"
    assert tab.evaluate("[...document.querySelectorAll('details')].every((part) => part.open)")
    tab.context.close()
