"""Inline pictures: the α curve as SVG, images as PNG data addresses."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

_W, _H = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 14, 40


def alpha_curve(result: dict[str, Any]) -> str:
    """CA and ASR over α with 95% intervals, the chosen α, the tolerance and the floor; "" without a curve."""
    curve = result.get("curve") or []
    if len(curve) < 2:
        return ""
    top = max(point["alpha"] for point in curve) or 1.0

    def x(alpha: float) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * alpha / top

    def y(share: float) -> float:
        return _TOP + (_H - _TOP - _BOTTOM) * (1 - share)

    out = [
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="Clean accuracy and attack success rate over α, '
        f'measured on the images for choosing" xmlns="http://www.w3.org/2000/svg">'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick * 100:.0f}%</text>')
    for i in range(5):
        a = top * i / 4
        out.append(f'<text x="{x(a):.1f}" y="{_H - 20}" text-anchor="middle">{a:.3g}</text>')
    out.append(f'<text x="{(_LEFT + _W) / 2:.0f}" y="{_H - 4}" text-anchor="middle">α</text>')
    for value, name in ((result.get("tolerance"), "tolerance"), (result.get("ca_floor"), "CA floor")):
        if value is not None:
            out.append(f'<line class="limit" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
            out.append(f'<text class="small" x="{_W - _RIGHT}" y="{y(value) - 4:.1f}" text-anchor="end">{name}</text>')
    chosen = result.get("alpha")
    if chosen is not None:
        out.append(f'<line class="chosen" x1="{x(chosen):.1f}" x2="{x(chosen):.1f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        side, place = ("end", -4) if chosen > top / 2 else ("start", 4)
        out.append(
            f'<text class="small" x="{x(chosen) + place:.1f}" y="{y(0.55):.1f}" text-anchor="{side}">'
            f"chosen α = {chosen:.3g}</text>"
        )
    for key in ("ca", "asr"):
        rows = [(p["alpha"], p[key]) for p in curve if p[key]["value"] is not None]
        upper = " ".join(f"{x(a):.1f},{y(r['interval'][1]):.1f}" for a, r in rows)
        lower = " ".join(f"{x(a):.1f},{y(r['interval'][0]):.1f}" for a, r in reversed(rows))
        out.append(f'<polygon class="band {key}" points="{upper} {lower}"/>')
        line = " ".join(f"{x(a):.1f},{y(r['value']):.1f}" for a, r in rows)
        out.append(f'<polyline class="line {key}" points="{line}"/>')
        out += [
            f'<circle class="dot {key}" cx="{x(a):.1f}" cy="{y(r["value"]):.1f}" r="3">'
            f"<title>α {a:.4g}: {r['value'] * 100:.1f}% of {r['n']}</title></circle>"
            for a, r in rows
        ]
    out.append("</svg>")
    return "".join(out)


_STYLE = """<style>
svg{background:#fff;font-family:sans-serif} text{font-size:11px;fill:#666} .small{font-size:10px}
.grid{stroke:#ddd} .limit{stroke:#999;stroke-dasharray:2 4} .chosen{stroke:#222;stroke-dasharray:5 4}
.line{fill:none;stroke-width:2} .line.ca{stroke:#1a6fb5} .line.asr{stroke:#c2410c}
.dot.ca{fill:#1a6fb5} .dot.asr{fill:#c2410c} .band{opacity:.15} .band.ca{fill:#1a6fb5} .band.asr{fill:#c2410c}
</style>"""


def alpha_picture(result: dict[str, Any]) -> str:
    """`alpha_curve` with its own colours, as a file: CA blue, ASR red."""
    head, end, rest = alpha_curve(result).partition(">")
    return head + end + (_STYLE + rest if rest else "")


def png(image: Tensor) -> str:
    """`data:` address of a uint8 picture (3, H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
