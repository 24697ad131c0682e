"""The page in a real browser: nothing overflows, nothing is fetched, every part is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rhe_parties.report.html import render_html
from rhe_parties.report.record import Record
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
    file = folder / "report.html"
    file.write_text(render_html(record), encoding="utf-8")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", EVERY)
def test_browser_shows_the_report_without_overflow_error_or_request(
    browser: Any, tmp_path: Path, name: str, width: int
) -> None:
    show(browser, EVERY[name](), tmp_path, width)
    assert browser.get_log("browser") == []
    assert "who can learn what" in browser.title
    overflow, room = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert overflow <= room + 1
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [r for r in requests if not r.startswith("data:")] == []
    assert browser.find_element("css selector", "h1").is_displayed()


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
