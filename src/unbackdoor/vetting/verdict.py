"""From facts to a verdict: each line of the policy is checked, and the first that decides names the verdict.

| verdict | when | exit code |
| --- | --- | --- |
| unsafe | a file would run code, and the policy says `unsafe_files: fail` | 1 |
| clean | the scan found nothing | 0 |
| cannot-tell | the scan has no answer | 4, or what `cannot_tell` says: 1 for `fail`, 0 for `pass` |
| backdoored | the scan found a backdoor, and it was not cured within the policy | 1 |
| cured | it was, and the cured model passes | 0 |
| error | the model could not be vetted | 2 for bad input, 3 for an internal error |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unbackdoor.vetting.policy import CANNOT_TELL, FAIL, PASS, Policy
from unbackdoor.vetting.result import Check, CureFacts, FileFacts, Outcome, ScanFacts, Verdict

# Of several models the run ends with the first of these that occurs. A model that fails is a conclusion, which no
# error elsewhere undoes; an internal error leaves more open than bad input; 4 is an honest answer.
WORST_FIRST = (1, 3, 2, 4, 0)
_UNDECIDED = {FAIL: 1, PASS: 0, CANNOT_TELL: 4}
NOTHING_WANTED = "no limit"


@dataclass(frozen=True)
class Judged:
    """A verdict with what it rests on."""

    verdict: Verdict
    exit_code: int
    sentence: str
    checks: tuple[Check, ...]


def worst(codes: Iterable[int]) -> int:
    """The exit code of several models."""
    there = set(codes)
    return next(code for code in WORST_FIRST if code in there)


def failed(error: str, code: int) -> Judged:
    """The verdict on a model that could not be vetted.

    Args:
        code: 2 for bad input, 3 for an internal error.
    """
    checks = (Check("opens", "fail", "the model can be opened and scanned", error),)
    return Judged("error", code, f"Not vetted: {error}", checks)


def is_refused(policy: Policy, files: Sequence[FileFacts]) -> bool:
    """Whether the files alone decide, so that nothing is opened."""
    return policy.unsafe_files == FAIL and any(file.unsafe is not None for file in files)


def judged(
    policy: Policy, files: Sequence[FileFacts], scan: ScanFacts | None, cure: CureFacts | str, seconds: float
) -> Judged:
    """The verdict on a model.

    Args:
        files: of the model, as they lie on disk.
        scan: None where the files alone decided.
        cure: why it could not be made, in its place; empty where none was asked for.
        seconds: that scan and cure took.
    """
    checks = (_files(policy, files), _backdoor(policy, scan), _cure(policy, scan, cure), _time(policy, seconds))
    verdict, code, sentence = _verdict(policy, files, scan, cure)
    return Judged(verdict, code, sentence, checks)


def _verdict(
    policy: Policy, files: Sequence[FileFacts], scan: ScanFacts | None, cure: CureFacts | str
) -> tuple[Verdict, int, str]:
    if scan is None or is_refused(policy, files):
        unsafe = [file for file in files if file.unsafe is not None]
        more = f" ({len(unsafe)} such files)" if len(unsafe) > 1 else ""
        return "unsafe", 1, f"Fails: {unsafe[0].path} {unsafe[0].unsafe}{more}."
    if scan.backdoored is None:
        code = _UNDECIDED[policy.cannot_tell]
        return "cannot-tell", code, f"{_WORD[code]}: {_reason(scan)}."
    if not scan.backdoored:
        return "clean", 0, f"Passes: no backdoor found: {scan.message}."
    trigger = f"a backdoor was found, target most likely “{scan.target}”: {scan.message}"
    short = _shortcoming(policy, cure)
    if isinstance(cure, CureFacts) and not short:
        loss = f"{'' if cure.labels else 'at most '}{max(cure.loss, 0.0):.1f} points of clean accuracy"
        return "cured", 0, f"The cured model in {cure.model} passes; it costs {loss}. In the model as given {trigger}."
    return "backdoored", 1, f"Fails: {trigger}{f'. The cure fails: {short}' if short else ''}."


_WORD = {0: "Passes, though it cannot be told", 1: "Fails, as it cannot be told", 4: "Cannot tell"}


def _reason(scan: ScanFacts) -> str:
    """Why there is no answer; the scan says first that there is none."""
    return scan.message.removeprefix("cannot tell: ")


def _shortcoming(policy: Policy, cure: CureFacts | str) -> str:
    """Why a cure does not satisfy the policy; empty where it does, or none was asked for."""
    if isinstance(cure, str):
        return cure
    if not cure.whole:
        return f"“{cure.left}” is still a finding" if cure.left else "something of the backdoor may be left"
    if cure.loss > policy.accuracy_loss:
        bound = "" if cure.labels else "up to "
        return f"it costs {bound}{cure.loss:.1f} points of clean accuracy, more than {policy.accuracy_loss:g}"
    return ""


def _files(policy: Policy, files: Sequence[FileFacts]) -> Check:
    wanted = "no file that would run code"
    unsafe = [file for file in files if file.unsafe is not None]
    if not files:
        return Check("safe-files", "not-run", wanted, "no file: the model is in memory")
    if not unsafe:
        return Check("safe-files", "pass", wanted, "none would run code")
    outcome: Outcome = "fail" if policy.unsafe_files == FAIL else "warn"
    return Check("safe-files", outcome, wanted, "; ".join(f"{file.path} {file.unsafe}" for file in unsafe[:3]))


def _backdoor(policy: Policy, scan: ScanFacts | None) -> Check:
    wanted = f"no backdoor, at a false-alarm rate of {policy.false_alarm_rate:g}"
    if scan is None:
        return Check("no-backdoor", "not-run", wanted, "not scanned: its files fail")
    if scan.backdoored is None:
        # Never "pass": what cannot be told may be let through, and is not attested.
        outcomes: dict[str, Outcome] = {FAIL: "fail", PASS: "warn", CANNOT_TELL: "cannot-tell"}
        return Check("no-backdoor", outcomes[policy.cannot_tell], wanted, _reason(scan))
    return Check("no-backdoor", "fail" if scan.backdoored else "pass", wanted, scan.message)


def _cure(policy: Policy, scan: ScanFacts | None, cure: CureFacts | str) -> Check:
    wanted = f"a cure that costs at most {policy.accuracy_loss:g} points of clean accuracy"
    short = _shortcoming(policy, cure)
    if short:
        return Check("cure", "fail", wanted, short)
    if isinstance(cure, str):
        asked = "no finding to cure" if scan is not None and not scan.backdoored else "not cured"
        return Check("cure", "not-run", wanted if policy.cure else "no cure", asked)
    bound = "" if cure.labels else "at most "
    rounds = "1 round" if cure.rounds == 1 else f"{cure.rounds} rounds"
    return Check("cure", "pass", wanted, f"{rounds}, {bound}{cure.loss:.1f} points; the new scan finds nothing")


def _time(policy: Policy, seconds: float) -> Check:
    taken = f"{seconds / 60:.1f} min"
    if policy.minutes is None:
        return Check("time", "pass", NOTHING_WANTED, taken)
    over = seconds > 60 * policy.minutes
    return Check("time", "warn" if over else "pass", f"at most {policy.minutes:g} min", taken)
