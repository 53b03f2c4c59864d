"""Tables against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
from typing import Any
from xml.etree import ElementTree

import pytest

from unbackdoor.bench.scatter import scatters
from unbackdoor.bench.tables import COLUMNS, as_csv, as_latex, as_markdown, attacks, per_attack, per_defense, spread

CA, ASR, RETENTION = (next(i for i, c in enumerate(COLUMNS) if c.name == n) for n in ("CA", "ASR", "retention"))


def rate(value: float) -> dict[str, Any]:
    return {"value": value, "n": 100, "interval": [0, 1]}


def cure(defense: str, seed: int, ca: float, asr: float, data: str = "d", attack: str = "a") -> dict[str, Any]:
    return {
        "kind": "cure", "model": "m", "data": data, "attack": attack, "seed": seed, "defence": defense,
        "before": {"ca": rate(0.8), "asr": rate(0.99)},
        "after": {"ca": rate(ca), "asr": rate(asr), "triggered_accuracy": rate(0.5)},
        "retention": ca / 0.8, "rebound": [{"asr": rate(asr)}, {"asr": rate(0.5)}],
        "images": 10, "labels": 5, "steps": 3, "seconds": 1.5, "peak_memory_mib": 100.0,
    }  # fmt: skip


def suspect(attack: str, seed: int, ca: float, asr: float) -> dict[str, Any]:
    after = {"ca": rate(ca)} if attack == "none" else {"ca": rate(ca), "asr": rate(asr)}
    return {"kind": "suspect", "model": "m", "data": "d", "attack": attack, "seed": seed, "after": after}


ROWS = [
    suspect("none", 0, 0.80, 0),
    suspect("none", 1, 0.90, 0),
    suspect("a", 0, 0.79, 0.98),
    suspect("a", 1, 0.86, 1.0),
    cure("nothing", 0, 0.8, 0.99),
    cure("x", 0, 0.70, 0.01),
    cure("x", 1, 0.74, 0.03),
    cure("y", 0, 0.76, 0.10),
    cure("y", 1, 0.76, 0.20),
]


def test_what_is_recovered_is_a_share_of_what_the_clean_training_reaches() -> None:
    value = next(c.value for c in COLUMNS if c.name == "recovered")
    row = cure("x", 0, 0.7, 0.01)
    assert value(row) is None, "no yardstick was measured"
    assert value({**row, "yardstick": {"triggered_accuracy": rate(0.625)}}) == pytest.approx(80)
    assert value({**row, "yardstick": {"triggered_accuracy": rate(0.0)}}) is None
    assert "recovered" in as_markdown(ROWS)


def test_mean_and_sample_deviation() -> None:
    assert spread([]).mean is None and spread([None]).text("{:.1f}") == "–"
    assert spread([3.0]).deviation is None and spread([3.0]).text("{:.1f}") == "3.0"
    assert spread([1.0, 3.0, None]).text("{:.2f}") == "2.00 ± 1.41"


def test_best_in_bold_but_never_doing_nothing() -> None:
    (block,) = per_attack(ROWS)
    by = {line.labels[-1]: line for line in block}
    assert by["x"].cells[CA].mean == pytest.approx(72) and by["x"].cells[ASR].mean == pytest.approx(2)
    assert by["y"].cells[CA].best and by["x"].cells[ASR].best and by["y"].cells[RETENTION].best
    assert not by["x"].cells[CA].best and not any(c.best for c in by["nothing"].cells)
    assert "**2.0 ± 1.4**" in as_markdown(ROWS)


def test_defenses_are_compared_on_the_same_cells_only() -> None:
    # "nothing" ran for seed 0 alone, so that seed 1 is no common ground.
    lines = {line.labels[-1]: line for line in per_defense(ROWS)}
    assert lines["x"].seeds == 1 and lines["x"].cells[CA].mean == pytest.approx(70)
    without = {line.labels[-1]: line for line in per_defense([r for r in ROWS if r.get("defence") != "nothing"])}
    assert without["x"].seeds == 2 and without["x"].cells[CA].mean == pytest.approx(72)
    assert without["x"].labels[0] == "2 cells"


def test_an_attack_is_measured_against_the_same_training_without_poison() -> None:
    ((_, _, attack, seeds, ca, clean, gap, asr),) = attacks(ROWS)
    assert (attack, seeds) == ("a", 2)
    assert (ca.mean, clean.mean, gap.mean, asr.mean) == pytest.approx((82.5, 85, -2.5, 99))


def test_csv_and_latex_hold_the_same_numbers() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(ROWS))))
    x = next(line for line in lines if line["defence"] == "x")
    assert float(x["CA"]) == pytest.approx(72) and float(x["CA sd"]) == pytest.approx(2.8284, abs=1e-4)
    latex = as_latex([cure("x_1", 0, 0.7, 0.01)])
    assert r"x\_1" in latex and r"$\mathbf{70.0}$" in latex and latex.count(r"\begin") == latex.count(r"\end") == 1


def test_scatter_puts_points_where_they_belong() -> None:
    picture = scatters([cure("x", 0, 1.0, 0.0), cure("y", 0, 0.0, 1.0, data="<d>")])["a"]
    groups = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")
    spots = {}
    for group in groups:
        if (group.get("id") or "").startswith("mark-"):
            use = next(e for e in group.iter() if e.tag.endswith("use"))
            spots[group[0].text] = (float(use.attrib["x"]), float(use.attrib["y"]))
    (left, top), (right, bottom) = spots["d, x: ASR (%) 0.0, CA (%) 100.0"], spots["<d>, y: ASR (%) 100.0, CA (%) 0.0"]
    assert left < right and top < bottom, "no ASR at full CA is the top left corner"
    assert "&lt;d&gt;" in picture and "<d>" not in picture


def test_nothing_finished_gives_empty_tables() -> None:
    assert as_markdown([]).strip() == "" and scatters([]) == {} and per_defense([]) == []


EVIL = "=1|`<b>\x1b[31m\n&%$#_{}~^\\\\"


def test_names_of_strangers_stay_text() -> None:
    rows = [{**row, "model": EVIL, "data": EVIL, "attack": EVIL} for row in ROWS]
    rows += [{**row, "defence": EVIL} for row in rows if row["kind"] == "cure"]
    plain, hostile = as_markdown(ROWS), as_markdown(rows)
    heads = {line.count("|") for line in plain.splitlines()}
    # A bar of a name is escaped; what is left are the columns', and no line more than there are rows.
    assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in hostile.splitlines()} == heads
    assert "<b>" not in hostile and "\x1b" not in hostile and "\\`" in hostile
    for row in csv.reader(io.StringIO(as_csv(rows))):
        assert not any(cell.startswith(("=", "+", "@")) for cell in row) and "\x1b" not in "".join(row)
    tex = as_latex(rows)
    assert "\x1b" not in tex and r"\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in tex
    for svg in scatters(rows).values():
        ElementTree.fromstring(svg)
