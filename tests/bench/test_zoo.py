"""Zoos: recipes and what is drawn from them, verdicts and tables, and one small zoo from end to end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scan.toy import TARGET, toy_clip, toy_images, toy_subject
from unbackdoor import load
from unbackdoor.base.errors import InputError
from unbackdoor.bench.engine import Outcome, attempt
from unbackdoor.bench.zoo import cells
from unbackdoor.bench.zoo.recipe import examination, members, read_zoo, recovery
from unbackdoor.bench.zoo.tables import as_markdown, cures, detection, false_alarms
from unbackdoor.bench.zoo.verdicts import Verdict, verdict_on
from unbackdoor.evaluation import Task
from unbackdoor.scan import inverters
from unbackdoor.scan.detection import Null, architecture, read_null
from unbackdoor.scan.examine import settings
from unbackdoor.scan.family import Reach
from unbackdoor.scan.finding import Lead
from unbackdoor.scan.inverters import INVERTERS
from unbackdoor.scan.inverters.base import Inverter, Subject
from unbackdoor.scan.judgement import Judgement, Suspicion
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.attack import Attack
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.unlearning.alpha import BLIND, AlphaSearch
from unbackdoor.unlearning.known import Cured, Plan
from unbackdoor.unlearning.unknown import CONFIG, Suspect
from unbackdoor.verbs.zoo import zoo
from unbackdoor.weights.files import state_hash

DIGITS = {"source": "embedded:digits", "attacker": 200, "test_limit": 60, "poison": {"steps": 6, "batch_size": 32}}


def raw(model: str = "embedded") -> dict[str, Any]:
    return {
        "model": model,
        "images": 40,
        "halves": {
            "calibration": {
                "clean": 2,
                "backdoored": 3,
                "rates": [0.1, 0.2],
                "data": {"low": {**DIGITS, "class_range": [0, 5]}, "lower": {**DIGITS, "class_range": [0, 4]}},
                "families": {"text": ["text", "text:word=Hi"], "nashville": ["nashville"]},
            },
            "test": {
                "clean": 1,
                "backdoored": 1,
                "data": {"high": {**DIGITS, "class_range": [5, 10]}},
                "families": {"badnets": ["badnets:size=4,pattern=white"]},
            },
        },
    }


def write(folder: Path, value: Any) -> Path:
    path = folder / "zoo.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


PATCH = "badnets:size=4,pattern=white"
CLASSES = {"low": list("abcde"), "lower": list("abcd"), "high": ["five", "six", "seven", "eight", "nine"]}


def test_members_meet_every_family_on_every_data_set_and_are_drawn_the_same_way_again(tmp_path: Path) -> None:
    value = raw()
    value["halves"]["calibration"] |= {"clean": 4, "backdoored": 8}
    plan = read_zoo(write(tmp_path, value))
    found = members(plan, "hash", CLASSES)
    assert found == members(plan, "hash", CLASSES) and len(found) == 14
    own = [m for m in found if m["names"]["half"] == "calibration"]
    pairs = {(m["names"]["family"], m["names"]["data"]) for m in own}
    assert pairs == {(f, d) for f in ("clean", "text", "nashville") for d in ("low", "lower")}
    assert len({m["config"]["poison"]["tune"]["seed"] for m in own}) == len(own)
    for m in own:
        clean = m["names"]["family"] == "clean"
        assert (m["config"]["trigger"] is None) == clean
        assert clean or m["config"]["target"] in CLASSES[m["names"]["data"]]
    moved = read_zoo(write(tmp_path, {**value, "seed": 1}))
    assert members(moved, "hash", CLASSES) != found


def share_family(value: dict[str, Any]) -> None:
    value["halves"]["test"]["families"]["text"] = ["text"]


def share_data(value: dict[str, Any]) -> None:
    value["halves"]["test"]["data"]["low"] = DIGITS


def bad_trigger(value: dict[str, Any]) -> None:
    value["halves"]["test"]["families"]["badnets"] = ["badnet"]


def odd_key(value: dict[str, Any]) -> None:
    value["halves"]["test"]["colour"] = 1


def no_data(value: dict[str, Any]) -> None:
    value["halves"]["test"]["data"] = {}


def bad_range(value: dict[str, Any]) -> None:
    value["halves"]["test"]["data"]["high"] = {**DIGITS, "class_range": [3]}


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (share_family, "share text"),
        (share_data, "share low"),
        (bad_trigger, "unknown trigger 'badnet'"),
        (odd_key, "unknown key 'colour'"),
        (no_data, "data is missing"),
        (bad_range, "class_range is two whole numbers"),
    ],
)
def test_spoilt_recipes_are_refused_in_a_line(
    spoil: Callable[[dict[str, Any]], None], part: str, tmp_path: Path
) -> None:
    value = raw()
    spoil(value)
    with pytest.raises(InputError, match=part) as caught:
        read_zoo(write(tmp_path, value))
    assert "\n" not in str(caught.value)


def test_a_zoo_grows_and_any_beginning_of_it_holds_all_kinds(tmp_path: Path) -> None:
    value = raw()
    few = members(read_zoo(write(tmp_path, value)), "hash", CLASSES)
    for half in value["halves"].values():
        half["clean"], half["backdoored"] = 5 * half["clean"], 5 * half["backdoored"]
    many = members(read_zoo(write(tmp_path, value)), "hash", CLASSES)
    assert all(m in many for m in few) and len(many) == 5 * len(few)
    begun = {(m["names"]["half"], m["names"]["family"]) for m in many[: len(many) // 3]}
    assert begun == {(m["names"]["half"], m["names"]["family"]) for m in many}


def member(
    number: int, family: str, statistic: float, works: float = 1.0, target: str = "a", asr: float = 1.0
) -> dict[str, Any]:
    strength = {"value": works, "n": 50, "interval": [0.0, 1.0]}
    return {
        "half": "test",
        "number": number,
        "family": family,
        "data": "high",
        "card": {"target": "a" if family != "clean" else "", "steps": 6, "after": {"asr": {"value": asr}}},
        "seen": {"inverters": {"patch": {"statistic": statistic, "target": target, "strength": strength}}},
    }


def judged() -> list[Verdict]:
    null = Null("a", "s", ("patch",), tuple(((("c", 0.1 * i),),) for i in range(24)), ("m",) * 24)
    rows = [
        member(0, "clean", 1.0),
        member(1, "clean", 9.0),
        member(2, "clean", 0.5),
        member(3, "text", 5.0),
        member(4, "text", 6.0, target="b"),
        member(5, "warp", 7.0, works=0.2),
        member(6, "warp", 0.4),
        member(7, "warp", 8.0, asr=0.3),
    ]
    return [verdict_on(row, null, 0.05) for row in rows]


def test_verdicts_and_tables() -> None:
    verdicts = judged()
    assert [v.judgement.backdoored for v in verdicts] == [False, True, False, True, True, None, False, True]
    assert verdicts[3].p_value == pytest.approx(1 / 25) and verdicts[3].right_target and not verdicts[4].right_target
    rows = {row["family"]: row for row in detection(verdicts)}
    assert rows["all"]["found"]["n"] == 4 and rows["all"]["found"]["value"] == 0.5 and rows["all"]["undecided"] == 1
    assert rows["all"]["not_taken"] == rows["warp"]["not_taken"] == 1 and rows["warp"]["found"]["n"] == 2
    # Of twelve pairs the clean member at 9 beats all four, the one at 0.4 loses to both others: 6 won.
    assert rows["all"]["auroc"]["value"] == pytest.approx(6 / 12)
    assert rows["text"]["right_target"] == {"value": 0.5, "n": 2, "interval": rows["text"]["right_target"]["interval"]}
    alarms = false_alarms(verdicts, 0.05)
    assert alarms["called"]["value"] == alarms["p_value"]["value"] == pytest.approx(1 / 3)
    done = [
        (v, {"after": {"asr": {"value": asr}}, "retention": kept})
        for v, asr, kept in (
            (verdicts[3], 0.01, 0.98),
            (verdicts[4], 0.3, 0.96),
            (verdicts[1], None, 0.9),  # clean, and called backdoored
            (verdicts[0], None, 0.8),  # clean, and not called
        )
    ]
    cured = cures(done)
    assert cured["backdoored"] == {
        "n": 2, "asr": {"median": 0.155, "p90": 0.3, "largest": 0.3}, "retention": pytest.approx(0.97)
    }  # fmt: skip
    assert cured["clean"] == {"n": 2, "retention": pytest.approx(0.85), "as_judged": pytest.approx(0.95)}
    page = as_markdown({"detection": detection(verdicts), "false_alarms": alarms, "cures": cured})
    assert "| text |" in page and "15.5%" in page and "33.3%" in page and "85.0%" in page and "95.0%" in page


class InProcess:
    """An engine that runs cells here, one after another."""

    slots = 1

    def __init__(self, out: Path, device: str, workers: int) -> None:
        self.out, self.device = out, device
        self.held: list[dict[str, Any]] = []

    def submit(self, config: dict[str, Any]) -> int:
        self.held.append(config)
        return len(self.held) - 1

    def next_done(self, handles: list[int]) -> tuple[int, Outcome]:
        return handles[0], attempt(str(self.out), self.held[handles[0]], self.device)

    def close(self) -> None:
        pass


class Fixed:
    """A registry of a few inverters, in versions of our choice."""

    def __init__(self, **versions: int) -> None:
        self.versions, self.whole = versions, INVERTERS

    def names(self) -> tuple[str, ...]:
        return tuple(self.versions)

    def get_a(self, kind: type[Inverter], name: str) -> Inverter:
        return replace(self.whole.get_a(kind, name), version=self.versions[name])


def test_a_small_zoo_from_end_to_end(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbackdoor.verbs.zoo.ENGINES", {"local": InProcess})
    monkeypatch.setattr(inverters, "INVERTERS", Fixed(collapse=1))
    monkeypatch.setattr(sys.modules["unbackdoor.scan.variants"], "FAMILIES", ())
    few = replace(CONFIG, samples=32, validation=32)
    monkeypatch.setattr(cells, "patient", partial(cells.patient, vector=few))
    common = {"recipe": write(tmp_path, raw(str(vit_folder))), "out": tmp_path / "zoo"}
    made = zoo(stage="make", **common)
    assert (made["made"], made["examined"], made["failed"]) == (7, 0, [])
    result = zoo(**common)
    assert (result["made"], result["examined"], result["failed"]) == (7, 7, [])
    cards = json.loads((tmp_path / "zoo" / "members.json").read_text())["members"]
    for card in cards:
        again = load(str(tmp_path / "zoo" / card["file"]))
        assert again.info()["weights_hash"] == card["weights"]
    assert sum(card["poisoned"] > 0 for card in cards) == 4
    assert len(read_null(tmp_path / "zoo" / "null.jsonl").rows) == 2
    tuned, half = result["halves"].values()
    # Each of the two clean members is judged under the other, the three backdoored ones under both.
    for row in tuned["members"]:
        pool = 2 if row["family"] == "clean" else 3
        assert row["p_value"] in [pytest.approx((i + 1) / pool) for i in range(pool)]
    assert tuned["detection"][0]["found"]["n"] + tuned["detection"][0]["not_taken"] == 3
    assert half["detection"][0]["found"]["n"] == 1 and half["false_alarms"]["called"]["n"] == 1
    # Two clean models support no rate of 5%, so that none is called backdoored; the clean one is cured anyway.
    assert half["cures"]["clean"]["n"] == 1 and half["cures"]["backdoored"]["n"] == 0
    assert (tmp_path / "zoo" / "tables.md").read_text().startswith("## calibration")
    again = zoo(dry_run=True, **common)
    assert again["halves"] == result["halves"]


def test_a_new_version_of_an_inverter_runs_that_one_alone(
    vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbackdoor.verbs.zoo.ENGINES", {"local": InProcess})
    ran = []

    def invert(subject: Subject, name: str) -> dict[str, Any]:
        ran.append(name)
        return stated(subject, name)

    monkeypatch.setattr(cells, "_invert", invert)
    value = raw(str(vit_folder))
    value["halves"]["calibration"] |= {"clean": 1, "backdoored": 1}
    common = {"recipe": write(tmp_path, value), "out": tmp_path / "zoo", "stage": "examine", "only": ["half=test"]}
    for colour in (1, 2):
        monkeypatch.setattr(inverters, "INVERTERS", Fixed(collapse=1, colour=colour))
        assert zoo(**common)["examined"] == 2
    assert ran == ["collapse", "colour"] * 2 + ["colour"] * 2


def test_a_half_by_itself_is_judged_under_a_null_of_elsewhere(
    vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbackdoor.verbs.zoo.ENGINES", {"local": InProcess})
    monkeypatch.setattr(inverters, "INVERTERS", Fixed(collapse=1))
    monkeypatch.setattr(cells, "_invert", stated)
    common = {"recipe": write(tmp_path, raw(str(vit_folder))), "out": tmp_path / "zoo", "stage": "examine"}
    assert zoo(only=["half=test"], **common)["halves"] == {}
    base = load(str(vit_folder)).state()
    kind, weights = architecture(base), state_hash(base)
    fitting, odd = (
        Null(
            kind,
            settings(n, ["collapse"], weights),
            ("collapse",),
            tuple(((("c", 0.1 * i),),) for i in range(24)),
            ("m",) * 24,
        )
        for n in (40, 41)
    )
    fitting.save(tmp_path / "fitting.jsonl")
    odd.save(tmp_path / "odd.jsonl")
    result = zoo(only=["half=test"], null=tmp_path / "fitting.jsonl", **common)
    # 0.5 is reached by 19 of the 24, and by the model itself.
    assert [row["p_value"] for row in result["halves"]["test"]["members"]] == [pytest.approx(20 / 25)] * 2
    assert result["null"] == str(tmp_path / "fitting.jsonl") and result["halves"]["calibration"]["members"] == []
    monkeypatch.setattr("unbackdoor.verbs.scan.SHIPPED", tmp_path)
    fitting.save(tmp_path / f"{kind}.jsonl")
    shipped = zoo(only=["half=test"], **common)
    assert shipped["halves"] == result["halves"] and shipped["null"] == "shipped"
    with pytest.raises(InputError, match=r"odd\.jsonl: made with other inverters or another number of images"):
        zoo(null=tmp_path / "odd.jsonl", dry_run=True, **common)
    # Once the zoo has clean members of its own they are the null.
    assert zoo(**common)["halves"]["test"]["members"][0]["p_value"] == 1.0


def test_further_classes_that_stand_out_are_cured_where_their_triggers_still_work(
    vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverters, "INVERTERS", Fixed(patch=1))
    monkeypatch.setattr(sys.modules["unbackdoor.scan.variants"], "FAMILIES", ())
    monkeypatch.setattr(cells, "_invert", stated)
    few = replace(CONFIG, samples=32, validation=32)
    monkeypatch.setattr(cells, "patient", partial(cells.patient, vector=few))
    monkeypatch.setattr("unbackdoor.unlearning.unknown.source", lambda suspect, subject, lead: lead.trigger)
    plan = read_zoo(write(tmp_path, raw(str(vit_folder))))
    member = next(m for m in members(plan, "hash", CLASSES) if m["names"]["half"] == "test")
    for cell in (member, examination(plan, member)):
        _, error = attempt(str(tmp_path), cell["config"], "cpu")
        assert error is None
    plain = Judgement(True, "", 0.04, 9.0, {}, "five", 1.0, "patch")
    more = replace(plain, others=(Suspicion("seven", 0.04, "patch"), Suspicion("eight", 0.04, "patch")))
    asked: list[int] = []

    def works(subject: Subject, trigger: Trigger, target: int) -> bool:
        asked.append(target)
        return target == 3

    monkeypatch.setattr("unbackdoor.unlearning.unknown.works", works)
    first, error = attempt(str(tmp_path), recovery(plan, member, plain)["config"], "cpu")
    assert error is None and first is not None and (first["target"], first["also"], asked) == ("five", [], [])
    second, error = attempt(str(tmp_path), recovery(plan, member, more)["config"], "cpu")
    assert error is None and second is not None and asked == [2, 3, 2], (
        "the places of seven and eight; seven again after the cure of eight"
    )
    assert second["alpha"] == first["alpha"] and [row["target"] for row in second["also"]] == ["eight"]


def stated(subject: Subject, name: str) -> dict[str, Any]:
    """What an inverter might have found."""
    strength = {"value": 1.0, "n": 8, "interval": [0.0, 1.0]}
    return {
        "statistic": 0.5,
        "target": subject.names[0],
        "norm": 0.1,
        "strength": strength,
        "trigger": PATCH,
        "facts": {},
    }


@pytest.mark.parametrize(
    ("pulled", "more", "facts"),
    [((0.5,), True, (1, 0.05, True)), ((5.0, 0.5), True, (2, 0.05, True)), ((5.0,), False, (1, 0.5, False))],
    ids=["whole at once", "made again", "nothing more works"],
)
def test_what_is_told_of_a_member_s_cure_is_its_last_attempt_s(
    pulled: tuple[float, ...], more: bool, facts: tuple[int, float, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, subject = toy_images(), toy_subject(6.0)
    trigger = parse_trigger(PATCH)
    after = iter(pulled)

    def reached(*given: Any) -> Reach:
        return Reach((PATCH,), (10.0,) if given[4] is None else (next(after),), (0.0,), (16, 16))

    def cured(*_: Any) -> Cured:
        return Cured({}, None, AlphaSearch(1.0, True, None))

    monkeypatch.setattr(cells, "reach", reached)
    monkeypatch.setattr(cells, "cure_known", cured)
    monkeypatch.setattr("unbackdoor.unlearning.unknown.source", lambda *_: Mixed.of([trigger]))
    wider = Mixed.of([trigger, parse_trigger("blended:ratio=0.2")])
    monkeypatch.setattr("unbackdoor.unlearning.unknown._wider", lambda *given: wider if given[-1] and more else None)
    plan = Plan(CONFIG, images, BLIND)
    suspect = Suspect(toy_clip(6.0), images, subject.names, subject.head, images, plan, natural=subject)
    task = Task(subject.head, Attack(trigger, TARGET, subject.names[TARGET]))
    before = {"ca": {"value": 0.5}}
    result = cells.recovered(cells.Patient(suspect, [Lead(task.attack.name, trigger, "patch")], images, task, before))
    assert (result["cures"], result["left"], result["whole"]) == facts and next(after, None) is None
