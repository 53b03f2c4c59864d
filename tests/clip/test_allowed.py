"""What a configuration may say, what it may ask for, and how weights that do not fit are named."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn

from unbackdoor.base.errors import InputError
from unbackdoor.clip import allowed
from unbackdoor.clip.allowed import Sizes, check_keys
from unbackdoor.clip.fitting import check_shapes, fit_state
from unbackdoor.clip.skeleton import outline, probe, shapes_of

TABLE = {
    "width": allowed.dimension(),
    "depth": allowed.several(allowed.layers(), 2, 2),
    "rate": allowed.maybe(allowed.real(0, 1)),
    "name": allowed.text("[a-z]+", "lower-case letters"),
    "kind": allowed.words("", "a", "b"),
    "square": allowed.flag(),
    "size": allowed.either(allowed.whole(1, 9), allowed.several(allowed.whole(1, 9), 2, 2)),
    "inner": allowed.maybe(allowed.table({"eps": allowed.real(0, 1)})),
}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"width": 4, "depth": [1, 2], "rate": None, "name": "x", "kind": "", "square": True, "size": [1, 9]},
        {"rate": 1, "size": 9, "inner": {"eps": 1e-5}},
        {"inner": None},
    ],
)
def test_what_is_allowed_passes(config: dict[str, Any]) -> None:
    check_keys(config, TABLE, "here")


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"widht": 4}, "'widht' is no setting that is allowed; did you mean width?"),
        ({"inner": {"path": "/etc"}}, "'inner.path' is no setting"),
        ({"x\x1b[2J" * 40: 1}, "is no setting"),
        ({"width": True}, "width must be a whole number"),
        ({"width": 0}, "width must be a whole number from 1"),
        ({"width": 10**39}, "width must be a whole number"),
        ({"width": 4.0}, "width must be a whole number"),
        ({"depth": [1]}, "depth must be a list of 2"),
        ({"depth": [1, allowed.MOST_LAYERS + 1]}, "depth must be a list of 2"),
        ({"rate": float("nan")}, "rate must be a number from 0 to 1, or null"),
        ({"rate": 10**39}, "rate must be"),
        ({"rate": "0.5"}, "rate must be"),
        ({"name": "A"}, "name must be lower-case letters"),
        ({"name": "x\n"}, "name must be lower-case letters"),
        ({"kind": "c"}, "kind must be one of (nothing), a, b"),
        ({"kind": ["a"]}, "kind must be"),
        ({"square": 1}, "square must be true or false"),
        ({"inner": [1]}, "inner must be an object, or null"),
        ([], "holds no object"),
    ],
)
def test_what_is_not_allowed_is_named(config: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        check_keys(config, TABLE, "here")
    assert str(caught.value).startswith("here: ") and part in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("config", "part"),
    [({"width": 8}, "asks for 8, but no side"), ({"depth": [2, 2]}, "asks for 4 layers, but the weights hold 3")],
)
def test_sizes_are_bounded_by_the_weights(config: dict[str, Any], part: str) -> None:
    sizes = Sizes.of({"a": (7, 2), "b": (), "c": (3,)})
    assert sizes == Sizes(3, 7, 14)
    check_keys({"width": 7, "depth": [1, 2]}, TABLE, "here", sizes)
    with pytest.raises(InputError, match=part):
        check_keys(config, TABLE, "here", sizes)


def test_an_outline_costs_nothing() -> None:
    began, state = time.time(), torch.get_rng_state()
    model = outline(lambda: nn.Linear(10**6, 10**6), "here")
    assert model.state_dict()["weight"].shape == (10**6, 10**6)
    assert time.time() - began < 5
    assert torch.equal(state, torch.get_rng_state())


def _masked() -> nn.Module:
    model = nn.Module()
    model.register_buffer("mask", torch.empty(30_000, 30_000), persistent=False)
    return model


@pytest.mark.parametrize(
    ("create", "part"),
    [
        (lambda: nn.Linear(10**12, 10**12), "cannot build"),
        (lambda: nn.MultiheadAttention(5, 2), "cannot build"),
        (lambda: nn.Conv2d(3, 4, 0).no_such_thing, "cannot build"),
        (_masked, "MB of masks and tables"),
    ],
)
def test_what_cannot_be_built_is_one_line(create: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        outline(create, "here")


def test_a_tower_is_tried_without_arithmetic() -> None:
    model = outline(lambda: nn.Linear(10**5, 10**5), "here")
    assert probe(lambda: model(torch.empty(1, 10**5)), "here: no input fits") == (1, 10**5)
    for call in (lambda: model(torch.empty(1, 7)), lambda: (model(torch.empty(1, 10**5)), 1)):
        with pytest.raises(InputError, match="here: no input fits"):
            probe(call, "here: no input fits")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Linear(2, 3)
        self.alias = self.visual
        self.register_buffer("count", torch.tensor(0))


def state_of() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {n: t.clone() for n, t in Tied().state_dict().items()}


def test_one_name_of_tied_weights_is_enough() -> None:
    state = state_of()
    del state["visual.weight"], state["alias.bias"]
    model = Tied()
    types = fit_state(model, state, "here")
    assert torch.equal(model.visual.weight, state["alias.weight"]) and torch.equal(
        model.visual.bias, state["visual.bias"]
    )
    assert set(types) == set(model.state_dict())


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda s: {k: v for k, v in s.items() if "weight" not in k}, "2 tensors missing"),
        (lambda s: {**s, "more": torch.ones(1)}, "1 unexpected"),
        (lambda s: {**s, "visual.weight": torch.ones(2, 2)}, "1 of another shape; first visual.weight (stored (2, 2)"),
        (lambda s: {f"net.{k}": v for k, v in s.items()}, "prefix 'net.'"),
        (lambda s: {k.replace("visual", "vision_model"): v for k, v in s.items() if "alias" not in k}, "Hugging Face"),
        (lambda s: {**s, "alias.weight": s["alias.weight"] + 1}, "one tensor in this architecture"),
        (lambda s: {**s, "visual.weight": s["visual.weight"].to_sparse()}, "visual.weight is sparse"),
        (lambda s: {**s, "visual.weight": s["visual.weight"].to("meta")}, "visual.weight is without numbers"),
        (lambda s: {**s, "visual.weight": s["visual.weight"].to(torch.complex64)}, "visual.weight is complex"),
        (lambda s: {**s, "visual.weight": torch.quantize_per_tensor(s["visual.weight"], 0.1, 0, torch.qint8)}, "quant"),
        (lambda s: {k: v.to(torch.int8) for k, v in s.items()}, "stored as integers"),
        (lambda s: {**s, "count": torch.tensor(0.5)}, "count counts or points"),
        (lambda s: {**s, "count": torch.tensor(float("nan"))}, "count counts or points"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(edit: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_state(Tied(), edit(state_of()), "here")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_the_header_alone_is_compared() -> None:
    with torch.device("meta"):
        model = Tied()
    check_shapes(model, shapes_of(state_of()), "here")
    with pytest.raises(InputError, match="try another"):
        check_shapes(model, {"visual.weight": (3, 2)}, "here", "try another")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_any_floating_type_fits(dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) for n, t in state_of().items()}
    model = Tied()
    assert set(fit_state(model, state, "here").values()) == {dtype}
    assert model.visual.weight.dtype == torch.float32 and model.count.dtype == torch.int64
