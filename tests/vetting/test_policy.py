"""The policy: its file with the defaults, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from unbackdoor import InputError
from unbackdoor.base.untrusted import read_yaml
from unbackdoor.vetting.policy import DEFAULT, Policy, read_policy


def test_the_shipped_file_holds_the_defaults() -> None:
    assert read_policy(DEFAULT) == Policy()
    assert list(read_yaml(DEFAULT)) == [f.name for f in fields(Policy)], "every key is there, with its words"


def test_a_key_that_is_not_there_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("cure: true\nminutes: 10\n")
    assert read_policy(path) == Policy(cure=True, minutes=10)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("speed: 3", "no setting 'speed'; it has accuracy_loss, cannot_tell"),
        ("false_alarm_rate: 0", "false_alarm_rate 0 is not a number in (0, 1)"),
        ("false_alarm_rate: 1.0", "is not a number in (0, 1)"),
        ("false_alarm_rate: often", "Expected"),
        ("cannot_tell: maybe", "is none of fail, pass, cannot-tell"),
        ("unsafe_files: pass", "is none of fail, warn"),
        ("cure: 'yes'", "Expected bool"),
        ("accuracy_loss: -1", "is not a number in [0, 100]"),
        ("minutes: 0", "is not a number in (0"),
        ("minutes: .inf", "not finite"),
        ("- a\n- b", "holds no policy"),
        ("1: 2", "holds no policy"),
        ("", "holds no policy"),
        ("cure: !!python/object/apply:os.system [id]", "cannot be read as YAML"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as stop:
        read_policy(path)
    assert part in str(stop.value) and str(path) in str(stop.value) and "\n" not in str(stop.value)
