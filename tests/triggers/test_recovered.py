"""The triggers that a scan recovers: their packed text, and the differentiable arithmetic that inverters share."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unbackdoor.base.errors import InputError
from unbackdoor.triggers import parse_trigger
from unbackdoor.triggers.additive import Additive, add
from unbackdoor.triggers.base import Trigger
from unbackdoor.triggers.flow import Flow, warp
from unbackdoor.triggers.masked import Masked, blend
from unbackdoor.triggers.mixed import Mixed
from unbackdoor.triggers.packing import pack, unpack
from unbackdoor.triggers.recolor import Recolor, recolor

FORMS = ("masked", "additive", "flow", "recolour")
ARITHMETIC: dict[str, Callable[..., Tensor]] = {"masked": blend, "additive": add, "flow": warp, "recolour": recolor}
BUILD: dict[str, Callable[..., Trigger]] = {
    "masked": Masked.of,
    "additive": Additive.of,
    "flow": Flow.of,
    "recolour": Recolor.of,
}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def images(n: int = 6, height: int = 32, width: int = 32) -> Tensor:
    return rand(n, 3, height, width, seed=1)


def parameters(form: str, *groups: int) -> tuple[Tensor, ...]:
    """Made parameters of a form's arithmetic, mild enough that little is clipped."""
    if form == "masked":
        return rand(*groups, 1, 12, 12), rand(*groups, 3, 12, 12, seed=2)
    if form == "additive":
        return (0.1 * rand(*groups, 3, 12, 12) - 0.05,)
    if form == "flow":
        return (3 * rand(*groups, 2, 4, 4) - 1.5,)
    return (0.3 * rand(*groups, 3, 4) - 0.2,)


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_packing_keeps_values_to_half_a_step_and_zero_exactly() -> None:
    values = 2 * rand(3, 5, 7) - 1
    values[0, 0, :3] = torch.tensor([-1.0, 0.0, 1.0])
    again = unpack(pack(values), (3, 5, 7), "masked")
    assert again.shape == values.shape and again.dtype == torch.float32
    torch.testing.assert_close(again, values, atol=1 / 254 + 1e-6, rtol=0)
    assert again[0, 0, :3].tolist() == [-1, 0, 1]
    assert pack(again) == pack(values), "packing twice changes nothing"


def test_packing_clips_and_takes_any_float_type() -> None:
    values = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert unpack(pack(values), (3,), "flow").tolist() == pytest.approx([-1, 64 / 127, 1])
    assert pack(values.half()) == pack(values)


def test_a_byte_that_packing_never_writes_stays_in_range() -> None:
    assert unpack(text_of(zlib.compress(bytes([0, 255]))), (2,), "flow").tolist() == [-1, 1]


def test_packed_text_holds_no_separator_of_specs() -> None:
    for seed in range(20):
        text = pack(2 * rand(3, 9, 9, seed=seed) - 1)
        assert not set(text) & set(",=:@ \n")


GOOD = zlib.compress(bytes(range(100, 112)), 9)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "cut or runs on"),
        ("A*AA", "not base64url"),
        ("AA+/", "not base64url"),
        (text_of(GOOD) + "==", "not base64url"),
        (text_of(GOOD) + "\n", "not base64url"),
        ("ä", "not base64url"),
        ("A", "not base64url"),
        ("AAAA", "is damaged"),
        (text_of(GOOD[:-1] + bytes([GOOD[-1] ^ 1])), "is damaged"),
        (text_of(GOOD[:-2]), "cut or runs on"),
        (text_of(GOOD[:6]), "cut or runs on"),
        (text_of(GOOD + b"more"), "cut or runs on"),
        (text_of(zlib.compress(bytes(11))), "holds 11 bytes, and (3, 4) takes 12"),
        (text_of(zlib.compress(bytes(13))), "holds more than 12 bytes"),
        (text_of(zlib.compress(b"")), "holds 0 bytes"),
    ],
)
def test_broken_text_is_refused_in_one_line(text: str, part: str) -> None:
    unpack(text_of(GOOD), (3, 4), "recolour")
    with pytest.raises(InputError) as caught:
        unpack(text, (3, 4), "recolour")
    message = str(caught.value)
    assert message.startswith("trigger recolour: ") and part in message and "\n" not in message


def test_a_bomb_is_not_inflated() -> None:
    bomb = text_of(zlib.compress(bytes(64 * 2**20), 9))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more than 12 bytes"):
            parse_trigger(f"recolour:matrix={bomb}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21


@pytest.mark.parametrize("form", FORMS)
def test_without_content_it_is_a_trigger_that_cannot_be_applied(form: str) -> None:
    empty = parse_trigger(form)
    assert parse_trigger(empty.spec()) == empty
    with pytest.raises(InputError, match=f"^trigger {form}: holds no pattern; a scan recovers one$"):
        empty(images())


@pytest.mark.parametrize("form", FORMS)
def test_of_gives_what_the_arithmetic_gives(form: str) -> None:
    x, values = images(), parameters(form)
    trigger = BUILD[form](*(v.clone().requires_grad_() for v in values))
    assert parse_trigger(trigger.spec()) == trigger
    # Half a step of 1/127: of mask and pattern together, of d, of at most four entries, or of a displacement of 1.5
    # pixels of 64 in two directions, where neighbouring pixels differ by up to 1.
    atol = {"masked": 1 / 254, "additive": 0.05 / 254, "flow": 0.75 * 2 * 1.5 / 254, "recolour": 4 * 0.2 / 254}[form]
    torch.testing.assert_close(trigger(x), ARITHMETIC[form](x, *values), atol=1.2 * atol, rtol=0)


def test_reach_is_the_largest_value_in_four_digits() -> None:
    delta = torch.zeros(3, 4, 4)
    delta[1, 2, 3] = -0.1
    assert Additive.of(delta).reach == 0.1
    assert Additive.of(delta / 3).reach == 0.03334
    assert Additive.of(delta * 0).reach == 0.003922, "one step of an 8-bit image"
    assert Additive.of(delta * 50).reach == 1
    assert Flow.of(1.23456 * torch.ones(2, 3, 3)).reach == 1.235
    assert Recolor.of(-12.3456 * torch.ones(3, 4)).reach == 12.35


@pytest.mark.parametrize("form", FORMS)
def test_of_refuses_what_no_trigger_can_hold(form: str) -> None:
    good = parameters(form)
    for i in range(len(good)):
        for bad in (good[i][..., :-1, :], good[i][None], torch.full_like(good[i], float("nan"))):
            with pytest.raises(InputError, match=f"^trigger {form}: "):
                BUILD[form](*good[:i], bad, *good[i + 1 :])


def test_of_refuses_what_is_out_of_reach() -> None:
    with pytest.raises(InputError, match=r"\(0, 64\]"):
        Flow.of(torch.full((2, 3, 3), 65.0))
    with pytest.raises(InputError, match=r"\(0, 255\]"):
        Recolor.of(torch.full((3, 4), 256.0))


@pytest.mark.parametrize("form", FORMS)
def test_groups_are_each_group_alone(form: str) -> None:
    x, values = images(6), parameters(form, 3)
    together = ARITHMETIC[form](x, *values)
    assert together.shape == x.shape
    for g in range(3):
        rows = slice(2 * g, 2 * g + 2)
        alone = ARITHMETIC[form](x[rows], *(v[g] for v in values))
        torch.testing.assert_close(together[rows], alone, atol=1e-6, rtol=0)
    assert not torch.equal(together[:2], ARITHMETIC[form](x[:2], *(v[1] for v in values))), "groups differ"


@pytest.mark.parametrize("form", FORMS)
def test_images_that_do_not_split_into_groups_are_refused(form: str) -> None:
    for n, groups in ((5, (3,)), (4, (0,)), (4, (2, 2))):
        with pytest.raises(ValueError, match="do not split"):
            ARITHMETIC[form](images(n), *parameters(form, *groups))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [(), (3,)])
def test_gradients_reach_every_parameter(form: str, groups: tuple[int, ...]) -> None:
    x, weights = 0.2 + 0.6 * images(), rand(6, 3, 32, 32, seed=3)
    values = [v.requires_grad_() for v in parameters(form, *groups)]
    loss = (ARITHMETIC[form](x, *values) * weights).sum()
    found = torch.autograd.grad(loss, values)
    for value, gradient in zip(values, found, strict=True):
        assert gradient.shape == value.shape and bool(gradient.flatten(1).abs().sum(1).gt(0).all())
    # A small step against the gradient lowers the loss by what the gradient says.
    step = 1e-3 / max(float(g.abs().max()) for g in found)
    with torch.no_grad():
        moved = [v - step * g for v, g in zip(values, found, strict=True)]
        lower = (ARITHMETIC[form](x, *moved) * weights).sum()
    predicted = step * sum(float(g.pow(2).sum()) for g in found)
    assert float(loss.detach() - lower) == pytest.approx(predicted, rel=0.2)


@pytest.mark.parametrize("side", [32, 224])
def test_mask_and_delta_are_resized(side: int) -> None:
    x = images(1, side, side)
    mask, pattern, half = torch.zeros(1, 16, 16), rand(3, 1, 1).expand(3, 16, 16), side // 2
    mask[:, :, :8] = 1
    y = Masked.of(mask, pattern)(x)
    edge = side // 32  # the resized mask rises from half a mask pixel left of the middle to half a one right of it
    torch.testing.assert_close(
        y[..., : half - edge], pattern[None, :, :1, :1].expand(1, 3, side, half - edge), atol=1 / 254, rtol=0
    )
    assert torch.equal(y[..., half + edge :], x[..., half + edge :])
    delta = 0.1 * (2 * mask - 1).expand(3, 16, 16)
    grey = torch.full_like(x, 0.5)
    z = Additive.of(delta)(grey)
    torch.testing.assert_close(z[..., : half - edge], torch.full((1, 3, side, half - edge), 0.6))
    torch.testing.assert_close(z[..., half + edge :], torch.full((1, 3, side, half - edge), 0.4))


def test_resizing_is_bilinear_between_pixel_centres() -> None:
    grey, left = torch.full((1, 3, 4, 4), 0.5), torch.tensor([1.0, 0.0]).expand(1, 2, 2)
    shares = torch.tensor([1, 0.75, 0.25, 0]).expand(1, 3, 4, 4)
    torch.testing.assert_close(Masked.of(left, torch.ones(3, 2, 2))(grey), 0.5 + 0.5 * shares)
    torch.testing.assert_close(Additive.of(0.1 * left.expand(3, 2, 2))(grey), 0.5 + 0.1 * shares)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_a_flow_means_the_same_at_every_size(side: int) -> None:
    ramp = torch.linspace(0, 1, side).expand(1, 3, side, side)
    along_x, along_y = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    along_x[0], along_y[1] = 4, -4
    torch.testing.assert_close(Flow.of(along_x)(ramp), (ramp + 4 / 64).clamp(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(Flow.of(along_y)(ramp), ramp, atol=1e-5, rtol=0)
    down = ramp.transpose(2, 3)
    torch.testing.assert_close(Flow.of(along_y)(down), (down - 4 / 64).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_colour_map_is_the_stated_one() -> None:
    x, (matrix,) = images(2, 3, 4), parameters("recolour")
    expected = torch.empty_like(x)
    for c in range(3):
        expected[:, c] = x[:, c] + sum(matrix[c, k] * x[:, k] for k in range(3)) + matrix[c, 3]
    torch.testing.assert_close(recolor(x, matrix), expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_nothing_recovered_changes_nothing() -> None:
    x = images(2, 32, 48)
    assert torch.equal(Masked.of(torch.zeros(1, 8, 8), rand(3, 8, 8))(x), x)
    assert torch.equal(Additive.of(torch.zeros(3, 8, 8))(x), x)
    assert torch.equal(Recolor.of(torch.zeros(3, 4))(x), x)
    torch.testing.assert_close(Flow.of(torch.zeros(2, 4, 4))(x), x, atol=1e-5, rtol=0)


def test_applying_does_not_write_to_what_is_kept() -> None:
    for form in FORMS:
        trigger = BUILD[form](*parameters(form))
        first = trigger(images())
        trigger(images()).zero_()
        assert torch.equal(trigger(images()), first), form


def test_a_small_patch_has_a_short_spec_whatever_its_pattern_is_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    mask, pattern = torch.zeros(1, 64, 64), torch.rand(3, 64, 64, generator=generator)
    mask[:, 50:58, 50:58] = 0.8
    trigger = Masked.of(mask, pattern)
    assert len(trigger.spec()) < 1000
    images = torch.rand(2, 3, 64, 64, generator=generator)
    torch.testing.assert_close(trigger(images), blend(images, mask, pattern), atol=1 / 254, rtol=0)


def test_mixed_gives_every_image_the_part_of_its_key() -> None:
    parts = [parse_trigger(spec) for spec in ("badnets:size=4", "blended:redraw=true", "nashville")]
    mixed, batch, keys = Mixed.of(parts), images(), torch.tensor([4, 0, 2, 1, 3, 5])
    assert mixed.triggers == tuple(parts) and parse_trigger(mixed.spec()) == mixed
    for i, key in enumerate(keys):
        alone = parts[int(key) % 3](batch[i : i + 1], keys=keys[i : i + 1])
        torch.testing.assert_close(mixed(batch, keys=keys)[i : i + 1], alone)
    torch.testing.assert_close(mixed(batch), parts[0](batch))
    for bad, part in (([], "at least one"), ([parse_trigger("issba:secret=a|b")], "holds"), ([mixed], "another mixed")):
        with pytest.raises(InputError, match=part):
            Mixed.of(bad)
    with pytest.raises(InputError, match="holds no pattern"):
        Mixed()(batch)
