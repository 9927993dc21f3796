"""The page in a real browser, at desk and phone width, light and dark; screenshots stay under artifacts/."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts" / "report"
SCREENS = {"desk": (1280, 800), "phone": (390, 844), "small-phone": (360, 640)}
RUNS_SHOWN = ("whole", "several", "unfinished", "untouched", "hostile", "deep", "planned", "empty")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root otherwise, as in a CI container
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser: Any, page: Path, screen: str, theme: str) -> None:
    width, height = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen != "desk"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wish = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())


def keep_picture(browser: Any, name: str) -> None:
    import base64

    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    (ARTIFACTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


VISIBLE_PLOTS = """
return [...document.querySelectorAll('.plot')].map(plot =>
  [...plot.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect())
    .filter(box => box.width > 200 && box.height > 100 && box.left >= 0 && box.right <= window.innerWidth).length)
"""
SMALLEST_TEXT = """
return Math.min(...[...document.querySelectorAll('.plot text')].map(text => text.getBoundingClientRect())
  .filter(box => box.height > 0).map(box => Math.min(box.height, box.width > 0 ? box.height : 99)))
"""


VIEWS = [
    *((kind, screen, theme) for kind in RUNS_SHOWN for screen in ("desk", "phone") for theme in ("light", "dark")),
    *((kind, "small-phone", "light") for kind in ("whole", "hostile", "deep", "planned")),
]


@pytest.mark.parametrize(("kind", "screen", "theme"), VIEWS)
def test_page_fits_and_is_quiet(
    browser: Any, report_page: Callable[[str], Path], kind: str, screen: str, theme: str
) -> None:
    page = report_page(kind)
    show(browser, page, screen, theme)
    keep_picture(browser, f"{kind}-{screen}-{theme}")

    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.execute_script("return window.innerWidth") == SCREENS[screen][0]
    visible = browser.execute_script(VISIBLE_PLOTS)
    expected = {"empty": 0, "untouched": 2}.get(kind, 4)
    assert visible == [1] * expected, "every plot shows exactly one of its layouts, whole"
    if expected:
        assert browser.execute_script(SMALLEST_TEXT) >= 10, "text of plots is readable without zooming"


def test_page_asks_nothing_of_the_network(browser: Any, report_page: Callable[[str], Path]) -> None:
    import json

    page = report_page("hostile")
    show(browser, page, "desk", "light")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if url.startswith("file:")] == [page.as_uri()]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return document.scripts.length") == 0


def test_plots_follow_the_theme(browser: Any, report_page: Callable[[str], Path]) -> None:
    page = report_page("whole")
    probe = """
    const text = [...document.querySelectorAll('.plot text')].find(one => one.getBoundingClientRect().width > 0);
    const body = getComputedStyle(document.body);
    return [body.color, body.backgroundColor, getComputedStyle(text).fill];
    """
    show(browser, page, "desk", "light")
    bright = browser.execute_script(probe)
    show(browser, page, "desk", "dark")
    dark = browser.execute_script(probe)
    assert all(one != other for one, other in zip(bright, dark, strict=True))


def test_wide_tables_scroll_within_themselves_by_keyboard(browser: Any, report_page: Callable[[str], Path]) -> None:
    show(browser, report_page("whole"), "phone", "light")
    probe = "const one = document.querySelector('table.wide').parentElement; one.focus();"
    assert browser.execute_script(probe + "return one.scrollWidth > one.clientWidth")
    assert browser.execute_script(probe + "return document.activeElement === one")


def pdf_text(browser: Any, folder: Path) -> tuple[int, str]:
    """Print the page that is shown to A4, and return the number of its pages and their text."""
    import base64
    import subprocess

    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    path = folder / "page.pdf"
    path.write_bytes(base64.b64decode(printed["data"]))
    assert path.read_bytes().startswith(b"%PDF")
    count = path.read_bytes().count(b"/Type /Page\n")
    if not shutil.which("pdftotext"):
        return count, ""
    run = subprocess.run(["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True)
    return count, run.stdout


PRINTED = """
return [...document.querySelectorAll('table')].map(one => one.getBoundingClientRect().width <= window.innerWidth + 1)
"""


@pytest.mark.parametrize("kind", ["whole", "deep", "hostile", "planned"])
def test_it_prints_whole(browser: Any, report_page: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    """On paper nothing can be scrolled to: tables fit, the navigation is gone, dark readers get bright paper."""
    show(browser, report_page(kind), "desk", "dark")
    # The width of A4 without its margins, in CSS pixels.
    size = {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert all(browser.execute_script(PRINTED))
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    count, text = pdf_text(browser, tmp_path)
    assert 1 <= count <= 12
    assert not text or ("Do it again" in text and "Multiply-adds" in text)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("whole", ["#arms", "#curves", "#layers", "#moves", "#setup"]),
        ("planned", ["#arms", "#curves", "#costs", "#layers", "#moves", "#setup"]),
    ],
)
def test_tab_goes_through_the_page_in_its_order(
    browser: Any, report_page: Callable[[str], Path], kind: str, parts: list[str]
) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, report_page(kind), "desk", "light")
    probe = (
        "const one = document.activeElement; return one.className || one.id || one.getAttribute('href') || one.tagName"
    )
    found = []
    for _ in range(len(parts) + 11):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        found.append(browser.execute_script(probe))
    assert found[0] == "skip"
    assert found[1 : len(parts) + 1] == parts
    assert found.count("scroll") >= 3 and "SUMMARY" in found
    browser.get(report_page(kind).as_uri())
    browser.switch_to.active_element.send_keys(Keys.TAB, Keys.ENTER)
    assert browser.current_url.endswith("#arms")


@pytest.mark.parametrize("kind", ["whole", "several", "unfinished", "planned"])
def test_a_screen_reader_hears_names(browser: Any, report_page: Callable[[str], Path], kind: str) -> None:
    """Every picture, table, region and link has a name in the accessibility tree, and headings go down one by one."""
    show(browser, report_page(kind), "desk", "light")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = [node for node in nodes if not node.get("ignored")]
    for role in ("image", "table", "region", "link", "navigation", "figure"):
        names = [node.get("name", {}).get("value", "") for node in told if node["role"]["value"] == role]
        assert names and all(names), f"{role} without a name: {names}"
    levels = [
        int(entry["value"]["value"])
        for node in told
        if node["role"]["value"] == "heading"
        for entry in node["properties"]
        if entry["name"] == "level"
    ]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
