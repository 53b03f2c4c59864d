"""The page in a real Chromium: it asks for nothing, says nothing wrong, and shows the numbers of the result."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.samples import HOSTILE, LOOKS, MANIFEST, MAP, SCORES, class_line, curve, example, finding, result
from unbackdoor.report import write_report
from unbackdoor.report.scan import write_scan_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HERE = Path(__file__).parent
WIDTHS = (400, 820, 1400)
SECONDS = 1.0  # from the click to a page that can be read and used

if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium and chromedriver: .ci/run installs them", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: install the extra `browser`")

Browser = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all, without network."""
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "host-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages whose every name is a stranger's; `many` has as many classes as ImageNet."""
    folder = tmp_path_factory.mktemp("pages")
    classes = [class_line(f"{i} {HOSTILE}", 50, i % 50, i % 3) for i in range(1000)]
    cure = result(target=HOSTILE, message=HOSTILE, labels_used=False)
    return {
        "cure": write_report(folder / "cure.html", cure, MANIFEST, [example(), example("a first")], MAP),
        "many": write_report(folder / "many.html", result(by_class=classes), MANIFEST, [example()] * 6, MAP),
        "scan": write_scan_report(folder / "scan.html", finding(message=HOSTILE), MANIFEST, LOOKS),
        "unsure": write_scan_report(folder / "unsure.html", finding(backdoored=None), MANIFEST, LOOKS),
    }


KINDS = ("cure", "many", "scan", "unsure")


def opened(browser: Browser, page: Path, *, scripts: bool = True, width: int = 820) -> None:
    """Open a page as new, and wait until its charts are drawn; what was logged before is forgotten."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    if scripts:
        drawn = "return [...document.querySelectorAll('.chart')].every((c) => c.querySelector('div svg'))"
        waited(lambda: browser.execute_script(drawn))


def waited(what: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return value


def requests(browser: Browser) -> list[str]:
    """Addresses that were asked for since the page was opened."""
    messages = [json.loads(row["message"])["message"] for row in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_request_leaves_the_page_and_nothing_is_wrong(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    opened(browser, pages[kind])
    if kind in ("cure", "many"):
        slide(browser, 0)
    browser.execute_script("document.querySelectorAll('th button').forEach((button) => button.click())")
    foreign = [url for url in requests(browser) if url != pages[kind].as_uri() and not url.startswith("data:")]
    assert foreign == []
    assert browser.get_log("browser") == [], "no error, no warning"
    assert browser.execute_script("return document.querySelectorAll('script:not([type])').length") == 2
    assert not browser.execute_script("return [...document.querySelectorAll('*')].some((e) => e.onclick || e.onerror)")


def test_a_request_would_be_noticed_and_is_refused(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["scan"].read_text(encoding="utf-8")
    leak = tmp_path / "leak.html"
    leak.write_text(text.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png" alt="">', 1), encoding="utf-8")
    opened(browser, leak)
    assert any("img-src" in row["message"] for row in waited(lambda: browser.get_log("browser")))
    leak.write_text(
        text.replace("default-src 'none'", "default-src *").replace("img-src data:", "img-src *").replace(
            "<main>", '<main><img src="http://127.0.0.1:9/y.png" alt="">', 1
        ),
        encoding="utf-8",
    )  # fmt: skip
    opened(browser, leak)
    assert "http://127.0.0.1:9/y.png" in requests(browser), "without the policy it is asked for, and counted"


def slide(browser: Browser, place: int) -> None:
    browser.execute_script(
        "const s = document.getElementById('alpha'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", place
    )


def test_the_sliders_numbers_are_those_of_the_result(browser: Browser, pages: dict[str, Path]) -> None:
    opened(browser, pages["cure"])
    text = browser.find_element("css selector", "a[download='result.json']").get_attribute("href")
    kept = browser.execute_async_script(
        "const done = arguments[1]; done(new TextDecoder().decode("
        "Uint8Array.from(atob(arguments[0].split('base64,')[1]), (c) => c.charCodeAt(0))))",
        text,
    )
    points = json.loads(kept)["curve"]
    assert points == curve() and json.loads(kept)["alpha"] == 0.5
    assert browser.find_element("id", "alpha-chosen").text == "chosen", "it begins at the chosen α"
    for place, point in enumerate(points):
        slide(browser, place)
        assert browser.find_element("id", "alpha-text").text == f"{point['alpha']:.4g}"
        cells = browser.find_elements("css selector", "#alpha-rates dd data")
        shares = [point[key] for key in ("ca", "asr", "triggered_accuracy")]
        assert [float(cell.get_attribute("value")) for cell in cells] == [share["value"] for share in shares]
        assert [cell.text for cell in cells] == [f"{100 * share['value']:.1f}%" for share in shares]
        details = browser.find_elements("css selector", "#alpha-rates dd small")
        assert [d.text for d in details] == [
            f"{100 * s['interval'][0]:.1f}–{100 * s['interval'][1]:.1f}, n = {s['n']}" for s in shares
        ]


def test_the_slider_moves_the_line_and_the_examples_answers(browser: Browser, pages: dict[str, Path]) -> None:
    opened(browser, pages["cure"])
    line = (
        "return [...document.querySelectorAll('#chart-alpha [aria-label=\"the α that the slider stands at\"]')]"
        ".map((e) => e.getAttribute('transform') + e.getAttribute('x2'))"
    )
    answers = (
        "return [...document.querySelectorAll('figure [data-answer=triggered]')]"
        ".map((e) => [e.textContent, e.className])"
    )
    places = set()
    truth = HOSTILE.replace("\ud800", "?")  # as the file holds it
    for place, expected in enumerate([("three", "wrong"), ("three", "wrong"), (truth, ""), (truth, "")]):
        slide(browser, place)
        places.add(tuple(waited(lambda: browser.execute_script(line))))
        first, second = browser.execute_script(answers)
        assert tuple(first) == expected
        assert second == (["three", "wrong"] if place < 2 else ["a first", ""])
        whose = browser.find_element("id", "answers-of").text
        assert whose == ("of the cured model" if place == 2 else f"at α = {curve()[place]['alpha']:.4g}")
    assert len(places) == 4, "four α, four places"


def test_the_slider_goes_by_keys_and_is_announced(browser: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["cure"])
    slider = browser.find_element("id", "alpha")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "α 1.125"
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "α 0" and browser.switch_to.active_element == slider
    assert browser.find_element("id", "alpha-rates").get_attribute("aria-live") == "polite"
    assert browser.execute_script("return document.querySelector('label[for=alpha]').textContent").startswith("α: 0")


@pytest.mark.parametrize(("column", "first"), [(0, "ascending"), (1, "descending"), (6, "descending")])
def test_the_table_of_classes_is_sorted_by_keys(
    browser: Browser, pages: dict[str, Path], column: int, first: str
) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["cure"])
    keys = f"return [...document.querySelectorAll('#classes tbody tr')].map((r) => r.cells[{column}].dataset.sort)"
    button = browser.find_elements("css selector", "#classes th button")[column]
    for order in (first, "descending" if first == "ascending" else "ascending"):
        button.send_keys(Keys.ENTER)
        values = browser.execute_script(keys)
        assert len(values) == 4
        values = [value.lower() for value in values] if column == 0 else [float(value) for value in values]
        assert values == sorted(values, reverse=order == "descending")
        heads = browser.find_elements("css selector", "#classes th[aria-sort]")
        assert [head.get_attribute("aria-sort") for head in heads] == [order]


@pytest.mark.parametrize("kind", KINDS)
def test_without_scripts_the_tables_and_the_pictures_stand(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    try:
        opened(browser, pages[kind], scripts=False)
        shown = [table.is_displayed() for table in browser.find_elements("css selector", "table")]
        if kind in ("cure", "many"):
            assert sum(shown) >= 3, "rates, classes and every α"
            values = [
                float(v.get_attribute("value")) for v in browser.find_elements("css selector", "#alpha-points data")
            ]
            assert values == [p[k]["value"] for p in curve() for k in ("ca", "asr", "triggered_accuracy")]
            assert not browser.find_element("id", "slider").is_displayed(), "nothing that does not work is there"
            assert not browser.find_elements("css selector", "th button")
            assert browser.find_element("css selector", "#chart-alpha svg").is_displayed()
        else:
            assert browser.find_element("css selector", "#chart-null svg").is_displayed()
            assert len(browser.find_elements("css selector", "#chart-null svg title")) == len(SCORES)
        assert browser.find_element("css selector", ".verdict").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_in_a_second(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    loaded = "return performance.getEntriesByType('navigation')[0].loadEventEnd"  # 0 until it is
    took = []
    for _ in range(5):
        opened(browser, pages[kind])
        took.append(waited(lambda: browser.execute_script(loaded)) / 1000)
    # The quickest: others may use the machine. It was measured with the load that there was.
    assert 0 < min(took) < SECONDS, took
    assert pages[kind].stat().st_size < 2 * 2**20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_has_nothing_serious_to_say(
    browser: Browser, pages: dict[str, Path], kind: str, theme: str, width: int
) -> None:
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(browser, pages[kind], width=width)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    browser.execute_script((HERE / "axe" / "axe.min.js").read_text(encoding="utf-8"))
    answer = browser.execute_async_script("axe.run(document).then(arguments[0], (e) => arguments[0]({error: `${e}`}))")
    assert answer.get("error") is None and len(answer["passes"]) > 10
    serious = [row for row in answer["violations"] if row["impact"] in ("serious", "critical")]
    assert [(row["id"], [node["html"][:200] for node in row["nodes"]][:3]) for row in serious] == []
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) <= 0, "nothing is wider than the window but what can be scrolled"


def test_colors_follow_the_theme_and_paper_is_light(browser: Browser, pages: dict[str, Path]) -> None:
    seen = {}
    color = (
        "const c = (e, p) => getComputedStyle(e)[p];"
        "const label = document.querySelector('#chart-alpha .mark-text text');"
        "return [c(document.body, 'backgroundColor'), c(label, 'fill')]"
    )
    for media, theme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        feature = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})
        opened(browser, pages["cure"])
        seen[media, theme] = browser.execute_script(color)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    light, dark, paper = seen.values()
    assert light[0] == paper[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(13, 17, 23)"
    assert light[1] != dark[1] != paper[1]


def test_what_is_folded_is_printed(browser: Browser, pages: dict[str, Path]) -> None:
    opened(browser, pages["cure"])
    state = "return [...document.querySelectorAll('details')].map((e) => e.open)"
    folded = browser.execute_script(state)
    assert len(folded) >= 3 and not all(folded)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(browser.execute_script(state))
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(state) == folded
    folder = os.environ.get("UNBACKDOOR_SCREENSHOTS")
    if folder:  # for people to look at
        for kind, page in pages.items():
            for width in WIDTHS:
                opened(browser, page, width=width)
                (Path(folder) / f"{kind}-{width}.png").write_bytes(browser.get_screenshot_as_png())
