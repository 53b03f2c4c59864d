"""What a verb returns: a typed value, a mapping of its JSON, and read back from it, checked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import ROOT
from unbackdoor import InputError
from unbackdoor.base import journal
from unbackdoor.metrics.backdoor import BackdoorRates
from unbackdoor.metrics.rates import Rate
from unbackdoor.runs.result import Rates, RateTable, Result, Share, optional, plain, spread
from unbackdoor.runs.schema import schema_of
from unbackdoor.verbs.results import InspectResult
from unbackdoor.verbs.results.cures import VectorFacts
from unbackdoor.verbs.results.files import Norms
from unbackdoor.verbs.schemas import RESULTS


@dataclass(frozen=True)
class _Part:
    """A part.

    Args:
        share: of a whole;
            None where there is none.
    """

    share: Share
    from_: str = "here"


@dataclass(frozen=True, eq=False, kw_only=True)
class _Sample(Result):
    """A sample.

    Args:
        parts: some.
        left, right: sides.
    """

    verb: Literal["sample"] = "sample"
    parts: tuple[_Part, ...]
    left: str | None = optional()
    right: int | None
    extra: dict[str, Any] = spread()
    seconds: float


HALF = {"value": 0.5, "n": 2, "interval": [0.1, 0.9]}
SAMPLE = _Sample(parts=(_Part(Share(0.5, 2, (0.1, 0.9))),), right=None, extra={"by": ["us"]}, seconds=1.5)
TEXT = {"verb": "sample", "parts": [{"share": HALF, "from": "here"}], "right": None, "by": ["us"], "seconds": 1.5}


def test_a_result_is_its_json_as_a_mapping() -> None:
    assert SAMPLE == TEXT and list(SAMPLE) == list(TEXT) and len(SAMPLE) == len(TEXT)
    assert json.dumps(dict(SAMPLE)) == json.dumps(TEXT)
    assert SAMPLE["parts"][0]["share"]["value"] == SAMPLE.parts[0].share.value
    assert "left" not in SAMPLE and SAMPLE.get("left", 1) == 1 and {**SAMPLE} == TEXT
    assert SAMPLE != {**TEXT, "right": 1}
    with pytest.raises(TypeError):
        SAMPLE["right"] = 1  # type: ignore[index]


def test_a_result_is_read_from_a_folder_a_file_and_memory(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({k: v for k, v in TEXT.items() if k != "parts"} | {"parts": []}))
    for source in (tmp_path, str(tmp_path / "result.json"), _Sample.read(tmp_path)):
        found = _Sample.read(source)
        assert found.parts == () and found.extra == {"by": ["us"]} and found.left is None


def test_a_line_of_a_journal_may_be_a_result(tmp_path: Path) -> None:
    journal.append(tmp_path / "log", {"value": SAMPLE})
    assert json.loads((tmp_path / "log").read_text()) == {"value": TEXT}
    with pytest.raises(TypeError, match="Path"):
        journal.append(tmp_path / "log", {"value": Path("x")})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"verb": "other"}, "verb"),
        ({"seconds": "1"}, "seconds"),
        ({"right": 1.5}, "right"),
        ({"parts": [{"share": {**HALF, "n": None}}]}, r"parts\[0\]\.share\.n"),
        ({"parts": [{"share": {**HALF, "interval": [0.1]}}]}, "interval"),
        ({"seconds": float("nan")}, "not what the verb returned"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(change: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        _Sample.read({**TEXT, **change})
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match=r"missing required field seconds"):
        _Sample.read({k: v for k, v in TEXT.items() if k != "seconds"})


CA, ASR, NOTHING = Rate(3, 4), Rate(1, 4), Rate(0, 0)


@pytest.mark.parametrize(
    ("rates", "keys", "asr"),
    [
        (BackdoorRates(CA), ["ca", "n", "interval"], None),
        (BackdoorRates(CA, ASR, NOTHING), ["ca", "asr", "triggered_accuracy", "n", "interval"], 0.25),
        (None, [], None),
    ],
)
def test_a_rate_that_was_not_measured_is_left_out(rates: BackdoorRates | None, keys: list[str], asr: Any) -> None:
    table = RateTable.of(rates)
    assert list(plain(table)) == keys and table.asr == asr
    if rates is not None:
        assert plain(Rates.of(rates)) == rates.as_dict()
        assert plain(table.share("ca")) == CA.as_dict()
    if asr is not None:
        assert plain(table)["triggered_accuracy"] is None and table.n["triggered_accuracy"] == 0


def test_keys_that_depend_on_others() -> None:
    assert plain(VectorFacts()) == {}
    assert plain(VectorFacts(file="f")) == {"file": "f", "origin": None}
    assert {"origin", "file"} & plain(VectorFacts(method="lora")).keys() == set()
    norms = Norms(tensors=1, elements=1, dtypes=("F32",), norm=1.0, broken=0)
    rest = {"bytes": 1, "files": 1, "metadata": {}, "tied": {}, "left_out": (), "only_a": (), "only_b": ()}
    for b, there in ((None, False), ("b", True)):
        whole = InspectResult(a="a", b=b, groups=(norms,), whole=norms, **rest)["whole"]
        assert ("cosine" in whole) is there


def test_a_schema_says_what_the_docstring_says() -> None:
    schema = schema_of(_Sample)
    assert schema["properties"]["left"] == {"description": "sides.", "type": "string"}
    assert schema["properties"]["right"] == {"description": "sides.", "type": ["integer", "null"]}
    assert schema["required"] == ["verb", "parts", "right", "seconds"] and schema["additionalProperties"] is True
    part = schema["$defs"]["_Part"]
    assert part["properties"]["share"]["description"] == "of a whole; null where there is none."
    assert part["required"] == ["share", "from"] and part["additionalProperties"] is False


@pytest.mark.parametrize("name", RESULTS)
def test_no_field_hides_what_a_mapping_does(name: str) -> None:
    assert not {f.name for f in fields(RESULTS[name])} & set(dir(Result)), "such a field cannot be read by its name"


def test_every_schema_is_in_the_document() -> None:
    page = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    for name, kind in RESULTS.items():
        assert f"`{name}.json`" in page and f"`{kind.__name__}`" in page


def test_results_are_read_without_torch() -> None:
    probe = "import sys, unbackdoor.verbs.results\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], timeout=60).returncode == 0
