"""The page in a real browser: nothing overflows, nothing is fetched, every part is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rhe_parties.report.html import render_html
from rhe_parties.report.record import Record
from rhe_parties.report.sweep_page import SweepFacts, render_sweep
from tests.report_matrix import broken_matrix, hostile_matrix, sweep_entries, threat_record
from tests.report_sample import sample_record
from tests.test_report import EVERY

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a fresh profile."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with chromedriver on this machine, so no browser looks at the report")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def show(browser: Any, record: Record, folder: Path, width: int) -> None:
    """Open the record's report at a window width."""
    open_page(browser, render_html(record), folder, width)


def open_page(browser: Any, html: str, folder: Path, width: int) -> None:
    """Open a page at a window width."""
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", EVERY)
def test_browser_shows_the_report_without_overflow_error_or_request(
    browser: Any, tmp_path: Path, name: str, width: int
) -> None:
    show(browser, EVERY[name](), tmp_path, width)
    check_page(browser)


@cache
def threat_page() -> str:
    return render_html(threat_record())


def check_page(browser: Any) -> None:
    """No console message, no request, nothing wider than the window."""
    assert browser.get_log("browser") == []
    assert "who can learn what" in browser.title
    overflow, room = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert overflow <= room + 1
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [r for r in requests if not r.startswith("data:")] == []
    assert browser.find_element("css selector", "h1").is_displayed()


@pytest.mark.parametrize("width", [390, 1440])
def test_browser_opens_a_cells_evidence_by_click_and_by_key(browser: Any, tmp_path: Path, width: int) -> None:
    open_page(browser, threat_page(), tmp_path, width)
    check_page(browser)

    def shown() -> list[str]:
        script = "return Array.from(document.querySelectorAll('article.evidence')).filter(a => a.checkVisibility())"
        return list(browser.execute_script(f"{script}.map(a => a.id)"))

    assert shown() == []
    links = browser.find_elements("css selector", ".matrix .cell a")
    assert len(links) == 90
    boxes = browser.execute_script(
        "return Array.from(document.querySelectorAll('.matrix .cell'), c => [c.firstElementChild.offsetHeight,"
        " c.clientHeight, c.querySelector('.outcome').offsetWidth, c.scrollWidth, c.clientWidth])"
    )
    assert all(inner >= 44 and word > 0 for inner, _, word, _, _ in boxes), "too small for a finger"
    assert all(wide <= room + 1 for _, _, _, wide, room in boxes), "a cell's words run out of it"
    links[0].click()
    assert shown() == ["cell-1-1"]
    check_page(browser)
    browser.find_element("css selector", "#cell-1-1 .neighbours a[href='#cell-4-1']").click()
    assert shown() == ["cell-4-1"]
    pictures = browser.find_elements("css selector", "#cell-4-1 .strip img")
    assert len(pictures) == 30
    assert all(picture.is_displayed() for picture in pictures)
    for css in (".roc", "table.numbers", "table.view", ".control"):
        assert browser.find_element("css selector", f"#cell-4-1 {css}").is_displayed(), css
    links[-1].send_keys("\ue007")  # Enter
    assert shown() == [links[-1].get_attribute("href").partition("#")[2]]
    browser.find_element("css selector", ".hint a").click()
    assert len(shown()) == 90
    check_page(browser)


def test_browser_reaches_cells_by_tab_and_reads_them_as_a_table(browser: Any, tmp_path: Path) -> None:
    open_page(browser, threat_page(), tmp_path, 390)
    names = []
    for _ in range(3):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        names.append(browser.switch_to.active_element.get_attribute("aria-label"))
    assert names[0] == "The matrix, scrollable"
    assert names[1].startswith("span-inversion against none: LEAKED, training images identified 99.0")
    assert names[2].startswith("informed against none: LEAKED")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node.get("ignored")]
    # A phone shows cards, which must still be a table to a screen reader.
    assert roles.count("rowheader") >= 10
    assert roles.count("columnheader") >= 11


@pytest.mark.parametrize("width", [390, 1440])
def test_browser_shows_damaged_hostile_and_sweep_pages(browser: Any, tmp_path: Path, width: int) -> None:
    pages = [render_html(broken_matrix()), render_html(hostile_matrix())]
    pages.append(render_sweep(SweepFacts("frontier"), sweep_entries()))
    for html in pages:
        open_page(browser, html, tmp_path, width)
        check_page(browser)
        outside = browser.execute_script(
            "return Array.from(document.querySelectorAll('svg.frontier text, svg.trend text')).filter(t =>"
            " t.checkVisibility() && (t.getBBox().x < -1 || t.getBBox().x + t.getBBox().width > 481))"
            ".map(t => t.textContent)"
        )
        assert outside == [], "labels that the picture cuts off"


@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_every_part_of_the_sample(browser: Any, tmp_path: Path, width: int) -> None:
    show(browser, sample_record(), tmp_path, width)
    for css in ("#headline", ".verdict", ".card.leaked .big", ".card.not-leaked .big", "#threat dl", ".strip img",
                "svg.sequence", "svg.intervals", ".exposure td", ".numbers td", ".compare td", "#limits li",
                "#repeat pre"):  # fmt: skip
        found = browser.find_elements("css selector", css)
        assert found, css
        assert found[0].is_displayed(), css
        assert min(found[0].size["width"], found[0].size["height"]) > 0, css
    loaded = browser.execute_script("return Array.from(document.images, i => [i.complete, i.naturalWidth])")
    assert len(loaded) == 120
    assert all(complete and pixels == 32 for complete, pixels in loaded)
    assert browser.find_element("css selector", ".strip img").size["width"] >= 48, "too small to recognise"
    small = browser.execute_script(
        "return Array.from(document.querySelectorAll('svg.sequence text'))"
        ".filter(t => t.getBBox().x < -1 || t.getBBox().x + t.getBBox().width > 481).map(t => t.textContent)"
    )
    assert small == [], "labels that the picture cuts off"


@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_curves_with_readable_labels(browser: Any, tmp_path: Path, width: int) -> None:
    show(browser, EVERY["task-membership"](), tmp_path, width)
    for css in ("svg.roc .curve", "svg.bars .outline-negative", ".legend li", "svg.swatch"):
        found = browser.find_elements("css selector", css)
        assert found, css
        assert found[0].is_displayed(), css
    outside = browser.execute_script(
        "return Array.from(document.querySelectorAll('svg.roc text, svg.bars text'))"
        ".filter(t => t.getBBox().x < -1 || t.getBBox().x + t.getBBox().width > 481).map(t => t.textContent)"
    )
    assert outside == [], "labels that the picture cuts off"


def test_browser_unfolds_baselines(browser: Any, tmp_path: Path) -> None:
    show(browser, EVERY["task-membership"](), tmp_path, 390)
    folded = browser.find_element("css selector", "tr.folded details")
    browser.execute_script("arguments[0].open = true", folded)
    assert folded.find_element("css selector", "td").is_displayed()
    overflow, room = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert overflow <= room + 1
