"""Names that wrappers changed, and how they find back to a model's own."""

from __future__ import annotations

import pytest

from unbackdoor import InputError
from unbackdoor.weights.names import bare, fitted, unwrapped

OWN = ("visual.conv1.weight", "visual.proj", "transformer.resblocks.0.mlp.c_fc.weight", "logit_scale")


@pytest.mark.parametrize(
    "prefix",
    [
        "", "module.", "model.", "_orig_mod.", "_fsdp_wrapped_module.", "clip.", "clip_model.", "net.", "module.model.",
        "model._orig_mod.", "_orig_mod.module.", "model.clip.", "module.module.", "ema_model.module.", "backbone.",
        "_forward_module.model.",
    ],
)  # fmt: skip
def test_a_prefix_of_wrappers_words_is_taken_off(prefix: str) -> None:
    found = fitted({f"{prefix}{name}": i for i, name in enumerate(OWN)}, OWN, "m.pt")
    assert found == {name: i for i, name in enumerate(OWN)}


@pytest.mark.parametrize(
    ("inner", "own"),
    [
        ("visual._orig_mod.conv1.weight", "visual.conv1.weight"),
        ("visual.module.conv1.weight", "visual.conv1.weight"),
        ("transformer.resblocks.0._checkpoint_wrapped_module.mlp.c_fc.weight", OWN[2]),
        ("transformer._fsdp_wrapped_module.resblocks.0._fsdp_wrapped_module.mlp.c_fc.weight", OWN[2]),
    ],
)
def test_words_inside_a_name_are_taken_out(inner: str, own: str) -> None:
    state = {name: 0 for name in OWN if name != own} | {inner: 1}
    assert fitted(state, OWN, "m.pt") == {name: int(name == own) for name in OWN}


def test_a_prefix_that_not_all_names_have_stays() -> None:
    state = {f"model.{name}": 0 for name in OWN} | {"criterion.weight": 0}
    assert set(fitted(state, OWN, "m.pt")) >= {"criterion.weight"}


def test_names_that_are_a_models_own_stay() -> None:
    own = ("model.layers.0.weight", "model.norm.weight")
    assert fitted(dict.fromkeys(own, 0), own, "m.pt") == dict.fromkeys(own, 0)
    own = ("module.weight", "module.bias")  # an adapter's or a toy's
    assert set(unwrapped(dict.fromkeys(("model.layers.0.weight", "model.norm.weight"), 0), "m.pt")) == {
        "model.layers.0.weight",
        "model.norm.weight",
    }


def test_a_prefix_is_taken_off_before_renaming_that_a_library_does() -> None:
    """Old names of a text tower are none of the model's own, but the image tower tells how deep the wrapper goes."""
    own = ("visual.proj", "text.transformer.weight")
    assert set(fitted({"module.model.visual.proj": 0, "module.model.transformer.weight": 0}, own, "m.pt")) == {
        "visual.proj",
        "transformer.weight",
    }


@pytest.mark.parametrize(
    "state",
    [{"_orig_mod.a.w": 0, "a.w": 1}, {"a._orig_mod.w": 0, "a.w": 1}, {"module._orig_mod.a": 0, "module.a": 1}],
)
def test_two_tensors_of_one_name_are_refused(state: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"m\.pt: holds \S+ twice"):
        fitted(state, ("a.w", "a"), "m.pt")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.model.visual.proj", "visual.proj"), ("visual.proj", "visual.proj"), ("model.weight", "weight"),
        ("visual._orig_mod.proj", "visual.proj"), ("_orig_mod.module.clip.x.weight", "x.weight"), ("module", "module"),
        ("text_model.encoder.weight", "text_model.encoder.weight"), ("", ""), ("model.", ""),
    ],
)  # fmt: skip
def test_bare_names(name: str, plain: str) -> None:
    assert bare(name) == plain
