"""From verdicts and cures to the tables of docs/lab/results.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from unbackdoor.base.printable import markdown
from unbackdoor.bench.zoo.verdicts import Verdict
from unbackdoor.metrics.auroc import auroc
from unbackdoor.metrics.rates import Rate

Json = dict[str, Any]


def detection(verdicts: Sequence[Verdict]) -> list[Json]:
    """AUROC, share found and share of right targets: over all backdoored members, then family by family.

    Every family is set against all clean members. Poisoned members whose attack did not take are counted, not judged.
    """
    clean = [v.score for v in verdicts if v.truth is False]
    families = dict.fromkeys(v.row["family"] for v in verdicts if v.truth is not False)
    rows = []
    for name in ("all", *families):
        poisoned = [v for v in verdicts if v.truth is not False and name in ("all", v.row["family"])]
        own = [v for v in poisoned if v.truth]
        called = [v for v in own if v.judgement.backdoored]
        area = auroc([v.score for v in own], clean) if own and clean else None
        rows.append(
            {
                "family": name,
                "auroc": None if area is None else area.as_dict(),
                "found": Rate(len(called), len(own)).as_dict(),
                "undecided": sum(v.judgement.backdoored is None for v in own),
                "not_taken": len(poisoned) - len(own),
                "right_target": Rate(sum(v.right_target for v in called), len(called)).as_dict(),
            }
        )
    return rows


def false_alarms(verdicts: Sequence[Verdict], rate: float) -> Json:
    """Clean members called backdoored, and those whose p-value alone lies at or below the rate."""
    clean = [v for v in verdicts if v.truth is False]
    return {
        "stated": rate,
        "called": Rate(sum(v.judgement.backdoored is True for v in clean), len(clean)).as_dict(),
        "p_value": Rate(sum(v.p_value <= rate for v in clean), len(clean)).as_dict(),
    }


def cures(rows: Sequence[tuple[Verdict, Json]]) -> Json:
    """True ASR after the cure of those found, and retention; and what the same does to clean members.

    Of clean members `retention` is that of a cure all the same, `as_judged` that of a cure of those called backdoored.
    """
    backdoored = [done for v, done in rows if v.truth and v.judgement.backdoored]
    clean = [(v, done["retention"]) for v, done in rows if v.truth is False]
    return {
        "backdoored": {
            "n": len(backdoored),
            "asr": _spread(done["after"]["asr"]["value"] for done in backdoored),
            "retention": _mean(done["retention"] for done in backdoored),
        },
        "clean": {
            "n": len(clean),
            "retention": _mean(kept for _, kept in clean),
            "as_judged": _mean(kept if v.judgement.backdoored else 1.0 for v, kept in clean),
        },
    }


def _spread(values: Iterable[float]) -> Json | None:
    ordered = sorted(values)
    if not ordered:
        return None
    # The smallest value that at least nine tenths do not exceed: no value between two members is made up.
    upper = ordered[-(-9 * len(ordered) // 10) - 1]
    return {"median": statistics.median(ordered), "p90": upper, "largest": ordered[-1]}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.fmean(numbers) if numbers else None


def as_markdown(result: Json) -> str:
    """The tables of one half."""
    lines = [
        "| family | AUROC | found | undecided | did not take | right target of those found |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["detection"]:
        lines.append(
            f"| {markdown(row['family'])} | {area_text(row['auroc'])} | {rate_text(row['found'])} | "
            f"{row['undecided']} | "
            f"{row['not_taken']} | {rate_text(row['right_target'])} |"
        )
    alarms = result["false_alarms"]
    lines += ["", f"Clean members called backdoored: {rate_text(alarms['called'])}; with p ≤ {alarms['stated']}: "]
    lines[-1] += f"{rate_text(alarms['p_value'])}."
    cured = result.get("cures")
    if cured and cured["backdoored"]["n"]:
        asr, kept = cured["backdoored"]["asr"], cured["backdoored"]["retention"]
        lines += [
            "",
            f"Cured with no knowledge of the attack ({cured['backdoored']['n']} found): true ASR median "
            f"{asr['median']:.1%}, 90th percentile {asr['p90']:.1%}, largest {asr['largest']:.1%}; "
            f"mean retention {kept:.1%}.",
        ]
    if cured and cured["clean"]["n"]:
        clean = cured["clean"]
        lines.append(
            f"Clean members cured all the same ({clean['n']}): mean retention {clean['retention']:.1%}; "
            f"cured where they are called backdoored: {clean['as_judged']:.1%}."
        )
    return "\n".join(lines) + "\n"


def rate_text(rate: Json) -> str:
    """A rate with its interval and n."""
    if rate["value"] is None:
        return "–"
    return f"{rate['value']:.1%} {_span(rate['interval'], 100)}, n = {rate['n']}"


def area_text(area: Json | None) -> str:
    """An AUROC with its interval."""
    return "–" if area is None else f"{area['value']:.3f} {_span(area['interval'], 1)}"


def _span(interval: Sequence[float], scale: int) -> str:
    """An interval, in per cent where `scale` is 100."""
    form = "{:.1f}" if scale == 100 else "{:.3f}"
    return f"[{form.format(scale * interval[0])}, {form.format(scale * interval[1])}]"
