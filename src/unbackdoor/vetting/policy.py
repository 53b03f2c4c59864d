"""What a model has to satisfy: read from YAML, allowed keys only. The defaults, with words: `assets/policy.yaml`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unbackdoor.base.errors import InputError
from unbackdoor.base.untrusted import read_yaml
from unbackdoor.runs.settings import changed, setting

DEFAULT = Path(__file__).parent.parent / "assets" / "policy.yaml"
FAIL, PASS, CANNOT_TELL, WARN = "fail", "pass", "cannot-tell", "warn"


@dataclass(frozen=True)
class Policy:
    """What a model has to satisfy.

    Args:
        false_alarm_rate: share of clean models that may be called backdoored, in (0, 1).
        cannot_tell: what a scan that has no answer comes to: `fail`, `pass`, or `cannot-tell` (exit code 4).
        cure: where something is found, cure it; the model then passes if the cured one does.
        accuracy_loss: percentage points of clean accuracy that a cure may cost.
        unsafe_files: what a file comes to that would run code if it were opened as usual: `fail`, or `warn`.
        minutes: per model; one that takes longer is reported. None sets no limit.
    """

    false_alarm_rate: float = setting(0.05, low=0, high=1, above=True, below=True)
    cannot_tell: str = setting(CANNOT_TELL, choices=(FAIL, PASS, CANNOT_TELL))
    cure: bool = setting(False)
    accuracy_loss: float = setting(2.0, low=0, high=100)
    unsafe_files: str = setting(FAIL, choices=(FAIL, WARN))
    minutes: float | None = setting(None, low=0, above=True)

    def as_dict(self) -> dict[str, Any]:
        """By key, as the file has them."""
        return asdict(self)


def read_policy(path: Path) -> Policy:
    """The policy of a file; a key that is not there has its default.

    Raises:
        InputError: no YAML table, an unknown key, or a value of another type or out of its range.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise InputError(f"{path}: holds no policy; write lines such as false_alarm_rate: 0.05")
    return changed(f"{path}: policy", Policy(), raw)
