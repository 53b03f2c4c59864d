"""Clean relatives of a suspect as its null: made one by one, curtailed, kept, shared, and gone on with after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.scan.toy import NAMES, TARGET, toy_clip, toy_images
from unbackdoor import scan
from unbackdoor.base.notices import collected
from unbackdoor.clip.handle import Clip
from unbackdoor.evaluation.answers import answers
from unbackdoor.scan import own_null, relatives, twins
from unbackdoor.scan.detection import NEAR, Null, Origin, architecture, exceeding, needed, read_null, settled, verdict
from unbackdoor.scan.examine import Examination
from unbackdoor.scan.inverters import guided
from unbackdoor.scan.own_null import LEAST, Making, grown, kept, key_of
from unbackdoor.scan.relatives import Kin, relative
from unbackdoor.weights.files import state_hash


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(relatives, "LEAST_STEPS", 4)
    monkeypatch.setattr(relatives, "MOST_STEPS", 8)
    monkeypatch.setattr(guided, "GuidedConfig", partial(guided.GuidedConfig, passes=600))
    monkeypatch.setattr(twins, "STEPS", 20)
    monkeypatch.setenv("UNBACKDOOR_CACHE", str(tmp_path / "cache"))


def asked(folder: Path, strength: float, **changes: Any) -> Any:
    templates = folder / "templates.txt"
    templates.write_text("{}\n")
    common = {"data": toy_images(), "inverters": ["patch"], "templates": str(templates), "false_alarm_rate": 0.2}
    return scan(model=toy_clip(strength), **{"origin": toy_clip(0.0), **common, **changes})


def toy_hash() -> str:
    return state_hash(toy_clip(0.0).state())


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("no relative is made")


def test_a_suspect_is_compared_with_relatives_of_its_own_and_the_next_one_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collected() as lines:
        finding = asked(tmp_path, 6.0, out=tmp_path / "out")
    assert finding["backdoored"] is True and finding["target"]["name"] == NAMES[TARGET]
    assert finding["compared_with"] == "relatives" and "relatives, made from <b>toy</b>" in page(tmp_path / "out")
    assert finding["clean_models"] == needed(0.2) == 4 and finding["p_value"] == pytest.approx(0.2)
    assert [line for line in lines if "up to 4 clean relatives are made from toy" in line and " min " in line]
    (file,) = (tmp_path / "cache" / "nulls").iterdir()
    null = read_null(file)
    assert len(null.rows) == 4 and len(set(null.models)) == 4 and null.origin is not None
    monkeypatch.setattr(own_null, "relative", never)
    with collected() as lines:
        again = asked(tmp_path, 6.0)
    assert again["p_value"] == finding["p_value"] and again["clean_models"] == 4
    assert not [line for line in lines if "relatives" in line]


def test_a_clean_suspect_is_decided_by_the_first_few(tmp_path: Path) -> None:
    finding = asked(tmp_path, 0.05, false_alarm_rate=0.05)  # at 0 it would be the origin itself
    assert finding["backdoored"] is False and LEAST <= finding["clean_models"] < needed(0.05)
    assert "no further ones could make this a finding" in finding["message"]


def test_none_are_made_where_none_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_null, "relative", never)
    finding = asked(tmp_path, 6.0, relatives=0)
    assert finding["backdoored"] is None and finding["p_value"] is None
    # An origin that comes with a null of others is none that the user names.
    null = Null(architecture(toy_clip(0.0).state()), "others", ("patch",), (((("ant", 0.1),),),), ("one",), None)
    with monkeypatch.context() as patched:
        patched.setattr("unbackdoor.verbs.scan.find_null", lambda *_: replace(null, origin=Origin("toy", toy_hash())))
        patched.setattr("unbackdoor.verbs.origins.open_referred", lambda *_: toy_clip(0.0))
        mismatched = asked(tmp_path, 6.0, origin=None)
    assert mismatched["backdoored"] is None and "were scanned in another way" in mismatched["message"]
    other = asked(tmp_path, 6.0, origin=None)
    assert other["backdoored"] is None and "name the clean model that this one was made from" in other["message"]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.2, 0.3])
def test_stopping_early_only_turns_findings_away(rate: float) -> None:
    whole = needed(rate)
    for seen in range(whole):
        for as_high in range(seen + 1):
            p = (1 + as_high) / (seen + 1)
            assert exceeding(p, seen) == as_high
            if settled(as_high, rate):
                # The best that could come of the others is that none scores as high.
                assert (1 + as_high) / (whole + 1) > NEAR * rate
                assert verdict(p, rate, seen, 1.0)[0] is False
            else:
                assert verdict(p, rate, seen, 1.0)[0] is None, "too few to tell"
    assert not settled(0, rate) and not settled(int(NEAR) - 1, rate)


def made_of(labels: torch.Tensor | None = None, **changes: Any) -> Kin:
    images, origin = toy_images(), toy_clip(0.0)
    head = origin.zero_shot_head(NAMES, ("{}",))
    own = answers(origin, images, head)[0] if labels is None else labels
    return replace(Kin(origin, images, own, head), **changes)


def making(**changes: Any) -> Making:
    origin = Origin("toy", state_hash(toy_clip(0.0).state()))
    blank = Null(architecture(toy_clip(0.0).state()), "settings", ("patch",), (), (), origin)
    return replace(Making(NAMES, Examination(("patch",)), blank), **changes)


def test_relatives_differ_and_each_is_the_same_whenever_it_is_made() -> None:
    # Classes that the origin does not answer, so that there is something to learn.
    kin = made_of(torch.arange(96) % 5)
    first, make = relative(kin, 0)
    again, make_again = relative(kin, 0)
    other, make_other = relative(kin, 1)
    assert first == again != other and "on pictures" in first and "on mixtures" in other
    hashes = [state_hash(made().state()) for made in (make, make_again, make_other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert state_hash(kin.origin.state()) not in hashes and state_hash(kin.origin.state()) == state_hash(
        toy_clip(0.0).state()
    )


@pytest.mark.parametrize("number", [0, 1])
def test_relatives_learn_the_labels(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relatives, "LEAST_STEPS", 150)
    monkeypatch.setattr(relatives, "MOST_STEPS", 150)
    monkeypatch.setattr(relatives, "RATES", 1.0)
    monkeypatch.setattr(relatives, "peak_rate", lambda *_: 0.03)
    # What the weights can learn: the answers of other weights of the same tower.
    teacher = toy_clip(0.0)
    with torch.no_grad():
        teacher.image_parameters()["visual.weight"].copy_(
            torch.randn(5, 48, generator=torch.Generator().manual_seed(5)) / 7
        )
    kin = made_of()
    labels = answers(teacher, kin.images, kin.head)[0]
    before = (answers(kin.origin, kin.images, kin.head)[0] == labels).float().mean()
    after = (answers(relative(replace(kin, labels=labels), number)[1](), kin.images, kin.head)[0] == labels).float()
    assert before < 0.75 and after.mean() > 0.9


def renamed(null: Null) -> Null:
    assert null.origin is not None
    return replace(null, origin=Origin("elsewhere", null.origin.weights))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda kin, how: (kin, how), True),
        (lambda kin, how: (replace(kin, labels=kin.labels.flip(0)), how), False),
        (lambda kin, how: (replace(kin, images=kin.images.subset(torch.arange(95, -1, -1))), how), False),
        (lambda kin, how: (replace(kin, head=kin.head.flip(0)), how), False),
        (lambda kin, how: (replace(kin, seed=1), how), False),
        (lambda kin, how: (kin, replace(how, names=(*NAMES[1:], "fox"))), False),
        (lambda kin, how: (kin, replace(how, blank=replace(how.blank, settings="others"))), False),
        (lambda kin, how: (kin, replace(how, blank=replace(how.blank, origin=Origin("toy", "0")))), False),
        (lambda kin, how: (kin, replace(how, blank=renamed(how.blank))), True),
    ],
)  # fmt: skip
def test_a_record_is_of_one_origin_data_classes_and_way_to_look(change: Callable[..., Any], same: bool) -> None:
    kin, how = made_of(), making()
    assert (key_of(*change(kin, how), True) == key_of(kin, how, True)) == same


def test_answers_that_stand_in_for_labels_are_no_part_of_the_name() -> None:
    kin = made_of()
    other = replace(kin, labels=kin.labels.flip(0))
    assert key_of(kin, making(), False) == key_of(other, making(), False) != key_of(kin, making(), True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(path.read_text().replace('"settings"', '"setting"')),
        lambda path: path.write_text(path.read_text().replace("settings-a", "settings-b")),
    ],
)
def test_a_record_that_is_damaged_or_of_another_kind_is_made_anew(spoil: Any, tmp_path: Path) -> None:
    how = making(store=tmp_path / "null.jsonl")
    how = replace(how, blank=replace(how.blank, settings="settings-a"))
    full = replace(how.blank, rows=(((("ant", 1.0),),),), models=("one",))
    assert how.store is not None
    full.save(how.store)
    assert kept(how).rows == full.rows
    spoil(how.store)
    assert kept(how) == how.blank


def test_a_killed_one_goes_on_behind_the_relatives_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kin, how = made_of(), making(store=tmp_path / "null.jsonl")
    whole = grown(kin, replace(how, store=None), 3, lambda null: False)
    real, numbers = own_null.relative, list[int]()

    def killed(kin: Kin, number: int, work: Any) -> tuple[str, Callable[[], Clip]]:
        numbers.append(number)
        if numbers == [0, 1, 2]:
            raise KeyboardInterrupt
        return real(kin, number, work)

    monkeypatch.setattr(own_null, "relative", killed)
    with pytest.raises(KeyboardInterrupt):
        grown(kin, how, 3, lambda null: False)
    assert len(kept(how).rows) == 2
    assert grown(kin, how, 3, lambda null: False) == whole == kept(how) and numbers == [0, 1, 2, 2]


def test_looks_begin_when_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def decided(null: Null) -> bool:
        looks.append(len(null.rows))
        return len(null.rows) == LEAST + 1

    null = grown(made_of(), making(), 19, decided)
    assert looks == [LEAST, LEAST + 1] and len(null.rows) == LEAST + 1
