"""Every registered trigger, in every variant of the table, keeps the contract of `Trigger`."""

from __future__ import annotations

import pytest
import torch

from unbackdoor.errors import InputError
from unbackdoor.triggers import parse_trigger, trigger_class, trigger_names
from unbackdoor.triggers.base import Trigger

VARIANTS = [
    "badnets:size=6",
    "badnets:size=4,position=top-left,margin=2,pattern=checker",
    "badnets:size=5,position=center,pattern=white",
    "badnets:size=3,position=four-corners,pattern=yellow",
    "badnets:size=6,position=random,pattern=noise,redraw=true,seed=3",
    "badnets:size=6,position=random,pattern=gaussian,redraw=true,wrap=true",
    "badnets:size=6,pattern=gaussian",
    "blended",
    "blended:ratio=0.35,seed=2",
    "blended:redraw=true",
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
    for name in trigger_names():
        a, b = trigger_class(name)(seed=0), trigger_class(name)(seed=1)  # type: ignore[call-arg]
        assert not torch.equal(a(images()), b(images())), name


@pytest.mark.parametrize("spec", ["badnets:pattern=noise,redraw=true,size=6", "blended:redraw=true"])
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


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nosuch", "unknown trigger"),
        ("badnets:colour=red", "no parameter 'colour'"),
        ("badnets:size=big", "not a int"),
        ("badnets:size=0", "at least 1"),
        ("badnets:position=nowhere", "none of"),
        ("badnets:redraw=maybe", "not a bool"),
        ("blended:ratio=1.5", "(0, 1]"),
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


def test_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        parse_trigger("badnets:size=33")(images())
