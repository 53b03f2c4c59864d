"""`unbackdoor unlearn`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbackdoor.cli.options import shared, show, story_lines


@click.command("unlearn")
@shared("model", "checkpoint", "data", "trigger", "target")
@click.option("--vector", type=click.Path(path_type=Path), help="Vector file; taken now when not given.")
@click.option("--alpha", default="auto", show_default=True, help="auto, or the coefficient to subtract with.")
@click.option("--alpha-grid", help="Values for the search, such as 0.5,1,2; by default it finds its own.")
@click.option("--tolerance", type=float, default=0.005, show_default=True, help="Largest ASR that counts as cured.")
@click.option("--floor", type=float, default=0.95, show_default=True, help="Share of the suspect's CA to keep.")
@shared("samples")
@click.option("--validation", type=click.IntRange(1), default=512, show_default=True, help="Images for choosing α.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the triggered images.")
@shared("method", "lr", "test_limit", "classes", "templates", "device", "seed")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@shared("json", "debug")
def command(as_json: bool, alpha: str, alpha_grid: str | None, tolerance: float, floor: float, **options: Any) -> None:
    """Subtract the trigger vector, α chosen on held-out images, and save the clean model as it came in."""
    from unbackdoor.defenses.alpha import AlphaConfig, parse_grid
    from unbackdoor.errors import InputError
    from unbackdoor.verbs.unlearn import unlearn

    if alpha != "auto":
        try:
            float(alpha)
        except ValueError:
            raise InputError(f"--alpha {alpha!r} is neither auto nor a number") from None
    grid = None if alpha_grid is None else parse_grid(alpha_grid)
    rule = AlphaConfig(tolerance=tolerance, floor=floor, grid=grid)
    show(unlearn(alpha=alpha, alpha_config=rule, **options), as_json, lines)


def lines(result: dict[str, Any]) -> list[str]:
    """The cure for people."""
    kept = "" if result["retention"] is None else f", {result['retention']:.1%} of clean accuracy kept"
    out = [*story_lines(result), f"α = {result['alpha']:.4g} ({result['rule']}){kept}"]
    if result["message"]:
        out.append(f"note: {result['message']}")
    return [*out, f"model:  {result['model']}", f"report: {result['report']}"]
