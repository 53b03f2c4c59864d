from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from PIL import Image

from tests.report.samples import (
    CLASSES,
    HOSTILE,
    LOOKS,
    MANIFEST,
    MAP,
    SCORES,
    class_line,
    curve,
    example,
    finding,
    rates,
    result,
    share,
)
from unbackdoor.report import Example, render
from unbackdoor.report.classes import ROWS, class_rows, class_sentence
from unbackdoor.report.page import fill_page, script_json
from unbackdoor.report.pictures import EXACT, LARGEST, address, changed, difference
from unbackdoor.report.scan import render_scan
from unbackdoor.report.vega import alpha_chart, map_chart, stacked, strip_chart
from unbackdoor.report.verdict import verdict

MIB = 2**20


class Page(HTMLParser):
    """Elements with their attributes and text, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[int, str] = {}
        self._open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "img", "input", "br"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.texts[place] = self.texts.get(place, "") + data

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attrs, self.texts.get(i, "")) for i, (name, attrs) in enumerate(self.elements) if name == tag]


def cure_page(**changes: Any) -> str:
    return render(result(**changes), MANIFEST, [example()], MAP)


def scan_page(**changes: Any) -> str:
    return render_scan(finding(**changes), MANIFEST, LOOKS)


PAGES = {"cure": cure_page, "scan": scan_page}


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_asked_from_outside(kind: str) -> None:
    page = Page(PAGES[kind]())
    addresses = [a for _, attrs in page.elements for key, a in attrs.items() if key in ("src", "href", "xlink:href")]
    assert addresses and all(re.match("data:|#", a) for a in addresses)
    (policy,) = [attrs["content"] for attrs, _ in page.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "'unsafe-eval'" not in policy
    assert re.findall(r"script-src[^;]*unsafe", policy) == []
    styles = "".join(text for _, text in page.all("style"))
    assert "@import" not in styles and not re.findall(r"url\((?!#)", styles)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}


@pytest.mark.parametrize("kind", PAGES)
def test_the_policy_names_the_scripts_that_are_there_and_no_other(kind: str) -> None:
    page = Page(PAGES[kind]())
    (policy,) = [attrs["content"] for attrs, _ in page.all("meta") if "http-equiv" in attrs]
    scripts = [text for attrs, text in page.all("script") if "type" not in attrs]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2 and re.findall(r"'sha256-([^']+)'", policy) == hashes


@pytest.mark.parametrize("kind", PAGES)
def test_text_of_strangers_stays_text(kind: str) -> None:
    changes = {"cure": {"target": HOSTILE, "trigger": HOSTILE, "message": HOSTILE}, "scan": {"message": HOSTILE}}
    text = PAGES[kind](**changes[kind])
    page = Page(text)
    assert HOSTILE not in text and "&lt;/script&gt;&lt;!--" in text
    assert [attrs for attrs, _ in page.all("script")] == [{"type": "application/json", "id": "page-data"}, {}, {}]
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
    ((_, data),) = [row for row in page.all("script") if row[0].get("id")]
    assert not set(data) & set("<>&")
    if kind == "cure":
        assert json.loads(data)["examples"][0][0] == [HOSTILE, "three"], "and is what it was"


@pytest.mark.parametrize("value", [HOSTILE, {"</script>": ["<!--", "]]>", "\u2028"]}, 1.5, None])
def test_json_in_a_script_ends_nothing_and_reads_back(value: Any) -> None:
    text = script_json(value)
    assert not set(text) & set("<>&") and json.loads(text) == value


def test_it_is_deterministic_and_shows_n_and_intervals() -> None:
    page = cure_page()
    assert page == cure_page()
    low, high = share(970, 1000)["interval"]
    assert f"{100 * low:.1f}–{100 * high:.1f}, n = 1000" in page
    assert "97.0%" in page and "0.5%" in page


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "good", "is gone: its success fell from 97.0% to 0.5%"),
        ({"retention": 0.8}, "mixed", "at a price"),
        ({"after": rates(0.9, 0.1)}, "mixed", "weakened but not gone"),
        ({"after": rates(0.9, 0.6)}, "bad", "still there"),
        ({"before": rates(0.9, 0.005)}, "mixed", "hardly worked"),
        ({"retention": None}, "good", "of triggered images."),
    ],
)
def test_the_verdict_says_what_the_figures_say(changes: dict[str, Any], level: str, words: str) -> None:
    found = verdict(result(**changes))
    assert found[0] == level and words in found[1]
    assert f'<p class="verdict {level}">{found[1]}</p>' in render(result(**changes), MANIFEST, [])


def test_the_table_of_alphas_has_the_results_own_numbers() -> None:
    page = Page(cure_page())
    rows = [float(attrs["data-alpha"]) for attrs, _ in page.all("tr") if "data-alpha" in attrs]
    assert rows == [point["alpha"] for point in curve()]
    values = [(float(attrs["value"]), text) for attrs, text in page.all("data")]
    kept = [point[key]["value"] for point in curve() for key in ("ca", "asr", "triggered_accuracy")]
    assert values[-len(kept) :] == [(value, f"{100 * value:.1f}%") for value in kept]
    (slider,) = [attrs for attrs, _ in page.all("input")]
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "3", "2"), "the third is the chosen one"


@pytest.mark.parametrize("points", [[], curve()[:1]])
def test_without_a_curve_there_is_nothing_to_slide(points: list[Any]) -> None:
    page = Page(render(result(curve=points), MANIFEST, []))
    assert not page.all("input") and not page.all("svg")
    assert len(page.all("script")) == 2, "nor is the code for charts in it"


@pytest.mark.parametrize(
    ("labels", "clean", "floor"),
    [
        (True, "Clean accuracy", "clean accuracy floor 85%"),
        (False, "Agreement with the suspect", "agreement floor 85%"),
    ],
)
def test_without_labels_the_search_is_told_in_other_words(labels: bool, clean: str, floor: str) -> None:
    page = cure_page(labels_used=labels)
    assert f"<dt>{clean}</dt>" in page and f'<th scope="col">{clean}</th>' in page
    assert page.count(floor) >= 2, "in the drawing and in the still picture"
    assert "CA floor" not in page


def test_a_blind_cures_rates_are_not_called_accuracy() -> None:
    page = cure_page(verb="unlearn-scan")
    assert "Agreement with the suspect<small>" in page and "Clean accuracy (CA)" not in page


def test_three_columns_when_the_original_is_known() -> None:
    assert "before the attack" in render(result(original=rates(0.95, 0.0)), MANIFEST, [])


def test_classes_are_ordered_by_what_was_moved_and_the_targets_own_images_are_not() -> None:
    rows = class_rows(CLASSES, "three")
    assert [row["name"] for row in rows] == [HOSTILE[:59] + "…", "a first", "b second", "three"]
    first, own = rows[1]["cells"], rows[3]["cells"]
    assert [cell["value"] for cell in first] == [1.0, 1.0, 0.05, 1.0, 0.95, 0.05]
    low, high = share(19, 20)["interval"]
    assert first[4]["text"] == "95.0%" and first[4]["interval"] == f"{100 * low:.1f}–{100 * high:.1f}"
    assert [cell is None for cell in own] == [False, False, True, True, True, True]
    assert class_sentence(CLASSES, "three").startswith("Of 3 other classes") and " in 2 on" in class_sentence(
        CLASSES, "three"
    )


def test_a_page_of_many_classes_is_cut_and_says_so() -> None:
    names = [f"{i} {'猫<&' * 200}" for i in range(21_000)]
    lines = [class_line(name, 50, i % 50) for i, name in enumerate(names)]
    noise = torch.randint(256, (2, 3, 336, 336), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    large = replace(example(), clean=noise[0], triggered=noise[1])
    long = {"config": {"a": "x" * 200_000}, "hashes": {}, "notes": {"b": "y" * 200_000}}
    text = render(result(by_class=lines), long, [large] * 6, MAP)
    page = Page(text)
    assert len([1 for attrs, _ in page.all("th") if attrs.get("data-sort")]) == ROWS
    assert f"{21_000 - ROWS} further classes are in result.json" in text
    assert "beside this page" in text, "and so is what is too large to be downloaded from it"
    assert len(text.encode(errors="replace")) < 2 * MIB


def test_downloads_are_the_results_own_bytes() -> None:
    page = Page(cure_page())
    files = {
        attrs["download"]: base64.b64decode(attrs["href"].partition("base64,")[2])
        for attrs, _ in page.all("a")
        if "download" in attrs
    }
    assert list(files) == ["result.json", "manifest.json", "settings.yaml"]
    assert json.loads(files["result.json"]) == result() and json.loads(files["manifest.json"]) == MANIFEST
    assert files["result.json"].decode() == json.dumps(result(), indent=2) + "\n"
    assert b"lr: 0.0001" in files["settings.yaml"]


def test_a_template_needs_none_of_what_is_optional() -> None:
    """Others fill the same page: no charts, no files, no manifest."""
    text = fill_page(
        "scan.html", {}, level="good", sentence="s", trigger="t", rows=[], pictures=[], null=None, fallback="",
        large=None, result=finding(),
    )  # fmt: skip
    assert "Download" not in text and len(text) < 40_000


@pytest.mark.parametrize(
    ("backdoored", "words"), [(True, "the trigger, enlarged"), (None, "the candidate, enlarged"), (False, "candidate")]
)
def test_a_scan_shows_what_the_p_value_is_made_of(backdoored: bool | None, words: str) -> None:
    page = scan_page(backdoored=backdoored)
    assert "1 of 7 clean models score as high" in page and "p = (1 + 1) / (1 + 7) = 0.250" in page and words in page
    values = [float(attrs["value"]) for attrs, _ in Page(page).all("data")]
    assert values == [1.75, 2.0, 0.5, -0.125]
    assert page.count("a clean model: 0.50") >= 2, "in the drawing and in the still picture"


@pytest.mark.parametrize("changes", [{"clean_scores": [], "score": None, "p_value": None}, {"clean_scores": None}])
def test_a_finding_of_old_or_without_a_null_has_no_strip(changes: dict[str, Any]) -> None:
    page = Page(scan_page(**changes))
    assert not page.all("svg") and "How sure" not in "".join(text for _, text in page.all("h2"))


def test_dots_of_a_strip_lie_on_one_another_where_they_are_close() -> None:
    assert stacked(SCORES, 1.75) == [(-0.125, 0), (0.0, 0), (0.25, 0), (0.5, 0), (0.51, 1), (1.25, 0), (2.0, 0)]
    assert stacked([1.0, 1.0]) == [(1.0, 0), (1.0, 1)] and stacked([]) == []


def charts() -> dict[str, dict[str, Any]]:
    names = {"ca": "clean", "asr": "attack", "triggered_accuracy": "back"}
    return {
        "alpha": alpha_chart(curve(), names, {"tolerance": 0.005}, 0.5),
        "strip": strip_chart(1.75, SCORES, "score"),
        "map": map_chart([(0.0, 1.0, "a", HOSTILE), (1.0, 0.0, "b", "")], ("a", "b")),
    }


@pytest.mark.parametrize("kind", charts())
def test_charts_are_vega_lite(kind: str) -> None:
    altair = pytest.importorskip("altair", reason="no altair: install the extra `test`")
    chart = charts()[kind]
    (altair.LayerChart if "layer" in chart else altair.Chart).from_dict(chart, validate=True)
    assert chart["$schema"].endswith("/v6.json")


def test_the_chart_leaves_out_what_was_not_measured() -> None:
    points = [{**point, "asr": {"value": None, "n": 0, "interval": [0, 1]}} for point in curve()]
    rows = alpha_chart(points, {"ca": "clean", "asr": "attack", "triggered_accuracy": "back"}, {}, 0.5)["data"][
        "values"
    ]
    assert {row["name"] for row in rows} == {"clean", "back"} and len(rows) == 8


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text.partition("base64,")[2])))


@pytest.mark.parametrize(("side", "shape"), [(8, 8), (EXACT, EXACT), (224, 224), (512, LARGEST)])
def test_pictures_are_exact_while_small(side: int, shape: int) -> None:
    image = torch.randint(256, (3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    picture = opened(address(image))
    assert picture.size == (shape, shape)
    if side <= EXACT:
        assert (torch.tensor(list(picture.tobytes())).reshape(side, side, 3).permute(2, 0, 1) == image).all()


def test_a_difference_is_times_five_and_a_trigger_is_cut_out() -> None:
    clean = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    triggered = clean.clone()
    triggered[:, 30:36, 2:8] = 110
    triggered[:, 0, 0] = 101  # rounding, somewhere else
    triggered[0, 31, 3] = 200
    assert difference(clean, triggered)[:, 31, 3].tolist() == [255, 50, 50]
    triggered[0, 31, 3] = 110
    assert changed(clean, triggered) == (slice(27, 39), slice(0, 12))
    assert changed(clean, clean) == (slice(0, 40), slice(0, 40))
    assert changed(clean, 255 - clean) == (slice(0, 40), slice(0, 40))


def test_an_example_needs_no_answers_along_the_way() -> None:
    plain = Example(*(example().clean, example().triggered), "t", "a", "b", "c", "d")
    assert json.loads(Page(render(result(), {}, [plain])).all("script")[0][1])["examples"] == [[]]
