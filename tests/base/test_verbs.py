"""Verbs as they are called from Python: keywords in, told apart and told about."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import unbackdoor
from unbackdoor.runs.verb import Verb

VERBS = {name: found for name in unbackdoor.__all__ if isinstance(found := getattr(unbackdoor, name), Verb)}


def test_every_long_verb_is_one() -> None:
    assert set(VERBS) == {
        "bench", "calibrate", "craft", "disentangle", "evaluate", "locate", "poison", "scan", "trigger_vector",
        "unlearn", "unlearn_scan", "vet",
    }  # fmt: skip


def test_a_room_does_not_take_a_verb_s_name() -> None:
    import unbackdoor.bench
    from unbackdoor.bench import cells

    assert isinstance(unbackdoor.bench, Verb) and cells.__name__ == "unbackdoor.bench.cells"


@pytest.mark.parametrize("name", VERBS)
def test_help_tells_keywords_types_and_defaults(name: str) -> None:
    verb: Any = VERBS[name]
    signature = inspect.signature(verb)
    assert verb.__name__ == name and verb.__module__.startswith("unbackdoor.verbs.") and "Raises:" in verb.__doc__
    needed = [p.name for p in signature.parameters.values() if p.default is inspect.Parameter.empty]
    assert needed == list(verb.needs) and all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    assert set(signature.parameters) == set(verb.parameters())
    config = verb.takes.config.__doc__
    documented = config + unbackdoor.runs.case.Case.__doc__ + unbackdoor.runs.run.Run.__doc__
    helped = [known.name for known in verb.parameters().values() if known.option and known.option.help]
    assert [p for p in signature.parameters if p not in documented and p not in helped] == [], "each is explained"


def test_wrong_keywords_are_python_s_own_error() -> None:
    with pytest.raises(TypeError, match=r"evaluate\(\) got an unexpected keyword argument 'colour'"):
        unbackdoor.evaluate(model="embedded", data="embedded:digits", colour="red")
    with pytest.raises(TypeError, match=r"unlearn\(\) needs the keyword argument 'target'"):
        unbackdoor.unlearn(model="embedded", data="embedded:digits", trigger="badnets", out="x")
    with pytest.raises(TypeError, match="positional"):
        unbackdoor.evaluate("embedded")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["convert", "demo", "info"])
def test_short_verbs_are_checked_alike(name: str) -> None:
    function: Any = getattr(unbackdoor, name)
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values())
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        function(colour="red")
    with pytest.raises(TypeError, match="positional"):
        function("embedded")


def test_a_value_that_cannot_be_one_is_refused_before_anything_is_opened() -> None:
    given = {"model": "no/such/model", "data": "embedded:digits"}
    for bad, part in (
        ({"counting": "all"}, "counting 'all' is none of standard, cleanclip, par"),
        ({"limit": 0}, "limit 0 is not in the range x>=1"),
        ({"limit": "40"}, "limit: Expected int"),
        ({"retrieval": 1}, "retrieval: Expected bool"),
        ({"classes": ["a"]}, "classes: Expected str"),
    ):
        with pytest.raises(unbackdoor.InputError, match=re.escape(part)):
            unbackdoor.evaluate(**given, **bad)


@pytest.mark.parametrize("alpha", ["much", "nan", "-inf", float("nan")])
def test_alpha_is_auto_or_a_finite_number_from_python_too(alpha: str | float) -> None:
    with pytest.raises(unbackdoor.InputError, match=r"is neither auto nor a number|is not a finite number"):
        unbackdoor.unlearn(model="none", data="none", trigger="none", target="none", out="none", alpha=alpha)
