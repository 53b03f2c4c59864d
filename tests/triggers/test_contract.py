"""Every registered trigger, in every variant of the table, keeps the contract of `Trigger`."""

from __future__ import annotations

import base64
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from unbackdoor.base.errors import InputError
from unbackdoor.triggers import parse_trigger, trigger_class, trigger_names
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.packing import pack


def patch_text(size: int) -> str:
    """A made patch for `badclip`, as the spec holds it."""
    return base64.urlsafe_b64encode(bytes((7 * i + 3) % 256 for i in range(3 * size * size))).decode().rstrip("=")


def packed_text(*shape: int, seed: int = 0) -> str:
    """Made values of this shape in [-1, 1] for a recovered trigger, as the spec holds them."""
    return pack(2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1)


def smooth_text(points: int) -> str:
    """A made field for `flow`: displacements that rise and fall slowly over the image."""
    place = torch.linspace(0, math.pi, points)
    return pack(torch.stack((place.sin().expand(points, points), place.cos()[:, None].expand(points, points))))


VARIANTS = [
    f"additive:side=6,pixels={packed_text(3, 6, 6)}",
    f"additive:side=8,reach=0.03,pixels={packed_text(3, 8, 8, seed=2)}",
    f"badclip:size=6,pixels={patch_text(6)}",
    f"badclip:size=5,position=top-left,pixels={patch_text(5)}",
    f"badclip:size=3,position=four-corners,pixels={patch_text(3)}",
    "badnets:size=6",
    "badnets:size=4,position=top-left,margin=2,pattern=checker",
    "badnets:size=5,position=center,pattern=white",
    "badnets:size=3,position=four-corners,pattern=yellow",
    "badnets:size=6,position=random,pattern=noise,redraw=true,seed=3",
    "badnets:size=6,position=random,pattern=gaussian,redraw=true,wrap=true",
    "badnets:size=6,pattern=gaussian",
    "badnets:size=6,pattern=stripes,redraw=true,position=random",
    "badnets:size=6,pattern=stripes",
    "blended",
    "blended:ratio=0.35,seed=2",
    "blended:redraw=true",
    f"flow:points=4,field={smooth_text(4)}",
    f"flow:points=8,reach=0.5,field={packed_text(2, 8, 8)}",
    "issba",
    "issba:secret=abc",
    "issba:secret=Hi+:@you,strength=0.5",
    "lowfreq",
    "lowfreq:amplitude=8,bands=5,seed=3",
    f"masked:side=8,pixels={packed_text(4, 8, 8)}",
    f"masked:side=5,pixels={packed_text(4, 5, 5, seed=2)}",
    f"mixed:parts=masked:side=5;pixels={packed_text(4, 5, 5, seed=2)}|badnets:size=3;pattern=white",
    "mixed:parts=sig|blended:redraw=true",
    "nashville",
    "nashville:strength=0.5",
    f"recolour:reach=0.2,matrix={packed_text(3, 4)}",
    f"recolour:matrix={packed_text(3, 4, seed=2)}",
    "ripple",
    "ripple:amplitude=3,wavelength=24",
    "sig",
    "sig:amplitude=40,frequency=3",
    "sig:ratio=0.2",
    "stripes",
    "stripes:ratio=0.1,width=3,horizontal=true,seed=2",
    "stripes:redraw=true",
    "text",
    "text:word=Hi,colour=yellow,size=12,offset=4,ratio=0.8",
    "triangles",
    "triangles:cell=5,dark=0.1,light=1.0,ratio=0.3",
    "wanet",
    "wanet:k=0,s=1.0",
    "wanet:k=8,s=2.0,seed=4",
]


@pytest.fixture(params=VARIANTS)
def trigger(request: pytest.FixtureRequest) -> Trigger:
    return parse_trigger(request.param)


def images(n: int = 5, height: int = 32, width: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_every_registered_trigger_has_a_variant() -> None:
    assert {v.partition(":")[0] for v in VARIANTS} == set(trigger_names())


def test_range_shape_type_and_input_untouched(trigger: Trigger) -> None:
    x = images()
    kept = x.clone()
    y = trigger(x, keys=torch.arange(5))
    assert y.shape == x.shape and y.dtype == x.dtype and y.device == x.device
    assert float(y.min()) >= 0 and float(y.max()) <= 1
    assert torch.equal(x, kept), "a trigger must not write to its input"
    assert not torch.equal(y, x), "a trigger must change the image"


def test_deterministic_and_batch_equals_single(trigger: Trigger) -> None:
    x, keys = images(), torch.tensor([7, 0, 3, 7, 11])
    batch = trigger(x, keys=keys)
    assert torch.equal(batch, trigger(x, keys=keys))
    for i in range(len(x)):
        single = trigger(x[i : i + 1], keys=keys[i : i + 1])[0]
        torch.testing.assert_close(batch[i], single, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_is_the_call_to_the_bit(trigger: Trigger, dtype: torch.dtype) -> None:
    x, keys = images().to(dtype), torch.arange(5)
    wanted = trigger(x, keys)
    room = torch.cat([x, x])  # as evaluations have it: the second half of a larger piece of memory
    assert trigger.in_place(room[5:], keys).data_ptr() == room[5:].data_ptr()
    assert torch.equal(room, torch.cat([x, wanted]))


def test_spec_round_trip(trigger: Trigger) -> None:
    again = parse_trigger(trigger.spec())
    assert again == trigger
    assert torch.equal(again(images()), trigger(images()))


def test_half_precision_stays_close(trigger: Trigger) -> None:
    x = images().half()
    y = trigger(x, keys=torch.arange(5))
    assert y.dtype == torch.float16
    if "wrap=true" not in trigger.spec():  # wrapped values jump from 1 to 0, so that rounding may turn one over
        torch.testing.assert_close(y.float(), trigger(x.float(), keys=torch.arange(5)), atol=4e-3, rtol=0)


def test_seed_decides_the_pattern() -> None:
    seeded = [n for n in trigger_names() if "seed" in {f.name for f in fields(trigger_class(n))}]
    assert {"badnets", "blended", "lowfreq", "stripes", "wanet"} <= set(seeded)
    for name in seeded:
        a, b = trigger_class(name)(seed=0), trigger_class(name)(seed=1)  # type: ignore[call-arg]
        assert not torch.equal(a(images()), b(images())), name


@pytest.mark.parametrize(
    "spec",
    [
        "badnets:pattern=noise,redraw=true,size=6",
        "badnets:pattern=stripes,redraw=true,size=6",
        "blended:redraw=true",
        "stripes:redraw=true",
    ],
)
def test_redrawn_triggers_differ_by_key_and_only_by_key(spec: str) -> None:
    trigger = parse_trigger(spec)
    x = images(1).expand(3, -1, -1, -1)
    y = trigger(x, keys=torch.tensor([1, 2, 1]))
    assert torch.equal(y[0], y[2]) and not torch.equal(y[0], y[1])


def test_patch_touches_its_place_alone() -> None:
    x = images()
    y = parse_trigger("badnets:size=4,position=bottom-right,margin=1,pattern=white")(x)
    changed = (x != y).any(dim=1).any(dim=0)
    rows, columns = torch.where(changed)
    assert (int(rows.min()), int(rows.max())) == (27, 30)
    assert (int(columns.min()), int(columns.max())) == (35, 38)
    assert bool((y[:, :, 27:31, 35:39] == 1).all())


def test_blended_is_the_stated_mixture() -> None:
    x = images()
    a, b = parse_trigger("blended:ratio=0.2"), parse_trigger("blended:ratio=1.0")
    torch.testing.assert_close(a(x), 0.8 * x + 0.2 * b(x))


def test_ripple_takes_each_pixel_from_along_a_sine() -> None:
    # A plane of slopes 1 and 2 is moved exactly by bilinear sampling, wherever no border is near.
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    plane = ((columns + 2 * rows) / 100).expand(1, 3, 20, 24)
    moved = parse_trigger("ripple:amplitude=1.5,wavelength=12")(plane)
    turn = 2 * math.pi / 12
    expected = plane + 1.5 * ((turn * rows).sin() + 2 * (turn * columns).sin()) / 100
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(moved[inner], expected[inner], atol=1e-5, rtol=0)


def test_wanet_matches_its_definition_written_out() -> None:
    x = images(2, 24, 24)
    k, s, h = 4, 0.5, 24
    trigger = parse_trigger(f"wanet:k={k},s={s},seed=5")
    from unbackdoor.triggers.base import draw

    n = draw(5, 0, lambda g: torch.rand(1, 2, k, k, generator=g)) * 2 - 1
    n = torch.nn.functional.interpolate(n / n.abs().mean(), size=h, mode="bicubic", align_corners=True)
    expected = torch.empty_like(x)
    for r in range(h):
        for c in range(h):
            gx = min(1.0, max(-1.0, -1 + 2 * c / (h - 1) + s * float(n[0, 0, r, c]) / h))
            gy = min(1.0, max(-1.0, -1 + 2 * r / (h - 1) + s * float(n[0, 1, r, c]) / h))
            px, py = (gx + 1) / 2 * (h - 1), (gy + 1) / 2 * (h - 1)
            x0, y0 = min(int(px), h - 2), min(int(py), h - 2)
            fx, fy = px - x0, py - y0
            top = x[:, :, y0, x0] * (1 - fx) + x[:, :, y0, x0 + 1] * fx
            bottom = x[:, :, y0 + 1, x0] * (1 - fx) + x[:, :, y0 + 1, x0 + 1] * fx
            expected[:, :, r, c] = top * (1 - fy) + bottom * fy
    torch.testing.assert_close(trigger(x), expected, atol=2e-5, rtol=0)


def test_sig_is_the_stated_wave() -> None:
    x = images(2, 8, 40)
    for amplitude, ratio in ((60, 0.0), (40, 0.2)):
        y = parse_trigger(f"sig:amplitude={amplitude},ratio={ratio}")(x)
        for j in range(40):
            n = amplitude / 255 * math.sin(2 * math.pi * 6 * j / 40)
            expected = x[..., j] + n if not ratio else 0.8 * x[..., j] + 0.2 * n
            torch.testing.assert_close(y[..., j], expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_stripes_are_columns_or_rows_of_plus_and_minus_one() -> None:
    grey = torch.full((1, 3, 12, 12), 0.5)
    n = (parse_trigger("stripes:ratio=0.1,width=2")(grey) - 0.45) / 0.1
    torch.testing.assert_close(n.abs(), torch.ones_like(n))
    assert torch.equal(n, n[:, :, :1].expand_as(n)) and torch.equal(n[..., 0::2], n[..., 1::2])
    assert len(n[0, :, 0].unique(dim=1).T) > 2, "channels and columns differ"
    rows = (parse_trigger("stripes:ratio=0.1,width=2,horizontal=true")(grey) - 0.45) / 0.1
    torch.testing.assert_close(rows, n.transpose(2, 3))


def test_triangles_leave_the_rest_alone() -> None:
    x = images(1, 14, 17)
    y = parse_trigger("triangles:cell=5")(x)
    for r in range(14):
        for c in range(17):
            tone = (0.4 if r % 5 >= c % 5 else 0.8) if r < 10 and c < 15 else None
            expected = x[0, :, r, c] if tone is None else 0.85 * x[0, :, r, c] + 0.15 * tone
            torch.testing.assert_close(y[0, :, r, c], expected, atol=1e-6, rtol=0)


def test_text_is_written_in_its_colour_and_fits() -> None:
    black = torch.zeros(1, 3, 224, 224)
    y = parse_trigger("text")(black)[0]
    assert float(y[0].max()) == pytest.approx(0.5, abs=0.01) and float(y[1:].max()) == 0
    written = torch.nonzero(y[0] > 0)
    assert 0.8 * 224 <= int(written[:, 1].max() - written[:, 1].min()) <= 0.9 * 224
    assert 100 <= float(written[:, 0].float().mean()) <= 124
    lower = torch.nonzero(parse_trigger("text:offset=10")(black)[0, 0] > 0)
    assert float(lower[:, 0].float().mean()) == pytest.approx(float(written[:, 0].float().mean()) + 10, abs=0.5)


def test_nashville_matches_css_written_out() -> None:
    x = images(1, 3, 3)
    y = parse_trigger("nashville")(x)
    clip = lambda v: min(1.0, max(0.0, v))  # noqa: E731
    for r in range(3):
        for c in range(3):
            rgb = [float(v) for v in x[0, :, r, c]]
            rgb = [v + 0.56 * (min(v, d / 255) - v) for v, d in zip(rgb, (247, 176, 153), strict=True)]
            red, green, blue = (v + 0.4 * (max(v, d / 255) - v) for v, d in zip(rgb, (0, 70, 150), strict=True))
            k = 0.8  # sepia(0.2) keeps 1 - 0.2 of the picture
            rgb = [
                (0.393 + 0.607 * k) * red + (0.769 - 0.769 * k) * green + (0.189 - 0.189 * k) * blue,
                (0.349 - 0.349 * k) * red + (0.686 + 0.314 * k) * green + (0.168 - 0.168 * k) * blue,
                (0.272 - 0.272 * k) * red + (0.534 - 0.534 * k) * green + (0.131 + 0.869 * k) * blue,
            ]
            red, green, blue = (clip(1.05 * clip(1.2 * (clip(v) - 0.5) + 0.5)) for v in rgb)
            grey = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            expected = [clip(grey + 1.2 * (v - grey)) for v in (red, green, blue)]
            torch.testing.assert_close(y[0, :, r, c], torch.tensor(expected), atol=1e-5, rtol=0)


def test_low_frequencies_alone() -> None:
    grey = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    n = parse_trigger("lowfreq:amplitude=20,bands=3")(grey) - 0.5
    assert float(n.abs().max()) == pytest.approx(20 / 255, rel=1e-6)
    # The cosine transform, written out: everything lies in the 3 × 3 lowest places, and nothing in the constant one.
    place = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    basis = torch.cos(math.pi * torch.arange(32, dtype=torch.float64)[:, None] * place)
    power = torch.einsum("uh,bchw,vw->bcuv", basis, n, basis).pow(2)
    assert float(power[..., :3, :3].sum() / power.sum()) == pytest.approx(1, abs=1e-9)
    assert float(power[..., 0, 0].sum() / power.sum()) < 1e-9


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nosuch", "unknown trigger"),
        ("additive:side=0", "1 to 1024"),
        ("additive:reach=0", "(0, 1]"),
        ("additive:reach=nan", "no number from"),
        (f"additive:side=4,pixels={packed_text(3, 5, 5)}", "more than 48 bytes"),
        ("badclip:size=0", "at least 1"),
        ("badclip:position=random", "none of"),
        ("badclip:size=2,pixels=AAAA", "3 bytes, and a patch of size=2 has 12"),
        ("badclip:size=1,pixels=A*AA", "not base64url"),
        ("badclip:size=1,pixels=A", "not base64url"),
        ("badnets:colour=red", "no parameter 'colour'"),
        ("badnets:size=big", "not a int"),
        ("badnets:size=0", "at least 1"),
        ("badnets:position=nowhere", "none of"),
        ("badnets:redraw=maybe", "not a bool"),
        ("blended:ratio=1.5", "(0, 1]"),
        ("flow:points=1", "2 to 256"),
        ("flow:reach=65", "(0, 64]"),
        ("flow:points=4,field=A*AA", "not base64url"),
        ("issba:secret=", "1 to 8 printable"),
        ("issba:secret=NineChars", "1 to 8 printable"),
        ("issba:secret=a b", "1 to 8 printable"),
        ("issba:secret=a=b", "1 to 8 printable"),
        ("issba:secret=naïve", "1 to 8 printable"),
        ("issba:strength=0", "(0, 4]"),
        ("issba:strength=nan", "no number from"),
        ("lowfreq:bands=1", "at least 2"),
        ("masked:side=1025", "1 to 1024"),
        (f"masked:side=4,pixels={packed_text(3, 4, 4)}", "48 bytes, and (4, 4, 4) takes 64"),
        ("mixed:parts=badnet", "unknown trigger 'badnet'"),
        ("mixed:parts=sig|badnets:size=0", "at least 1"),
        ("mixed:parts=sig|mixed:parts=sig", "another mixed"),
        ("nashville:strength=0", "(0, 1]"),
        ("recolour:reach=-1", "(0, 255]"),
        ("recolour:matrix=AAAA", "damaged"),
        ("sig:amplitude=300", "(0, 255]"),
        ("stripes:width=0", "at least 1"),
        ("text:word=", "letters and digits"),
        ("text:colour=mauve", "none of"),
        ("triangles:light=2", "[0, 1]"),
        ("ripple:amplitude=0", "above 0"),
        ("ripple:wavelength=1", "at least 2"),
        ("wanet:k=1", "at least 2"),
        ("wanet:s=-1", "positive"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_trigger(spec)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_bad_images_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(InputError):
        parse_trigger("blended")(bad)


@pytest.mark.parametrize(
    "spec", [f"badclip:size=33,pixels={patch_text(33)}", "badnets:size=33", "triangles:cell=41", "lowfreq:bands=33"]
)
def test_what_does_not_fit_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="does not fit"):
        parse_trigger(spec)(images())


def test_too_few_pixels_hide_nothing() -> None:
    with pytest.raises(InputError, match="does not fit into 15x40"):
        parse_trigger("issba")(images(2, 15, 40))


def test_a_spec_comes_from_a_file(tmp_path: Path) -> None:
    place = tmp_path / "trigger.txt"
    place.write_text("wanet:k=6\n")
    assert parse_trigger(f"@{place}") == parse_trigger("wanet:k=6")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "No such file"),
        (b"", "one line"),
        (b"blended\nwanet\n", "one line"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (b"nosuch", "unknown trigger"),
    ],
)
def test_an_unusable_file_is_refused(content: bytes | None, part: str, tmp_path: Path) -> None:
    place = tmp_path / "trigger.txt"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parse_trigger(f"@{place}")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_labels_are_short_and_specs_whole() -> None:
    trigger = parse_trigger(f"badclip:size=6,pixels={patch_text(6)}")
    assert trigger.label() == f"badclip:size=6,position=center,pixels={patch_text(6)[:12]}…"
    assert trigger.spec().endswith(patch_text(6))
    assert parse_trigger("text").label() == parse_trigger("text").spec(), "eleven letters are not cut"
