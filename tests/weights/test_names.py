"""Names that wrappers changed, and how they find back to a model's own."""

from __future__ import annotations

import re

import pytest

from unbackdoor import InputError
from unbackdoor.base.notices import collected
from unbackdoor.weights.names import bare, fitted, unwrapped

OWN = ("visual.conv1.weight", "visual.proj", "transformer.resblocks.0.mlp.c_fc.weight", "logit_scale")


@pytest.mark.parametrize(
    "prefix",
    [
        "", "module.", "model.", "_orig_mod.", "_fsdp_wrapped_module.", "clip.", "clip_model.", "net.", "module.model.",
        "model._orig_mod.", "_orig_mod.module.", "model.clip.", "module.module.", "ema_model.module.", "backbone.",
        "_forward_module.model.", "net.module.", "student.", "teacher.", "model.online_encoder.", "my_clip.0.",
        "visual.", "a.b.c.d.e.f.g.h.", "transformer.resblocks.", ".", "\x1b[31m.", "x..y.",
    ],
)  # fmt: skip
def test_a_prefix_of_all_names_is_taken_off_and_told(prefix: str) -> None:
    with collected() as lines:
        found = fitted({f"{prefix}{name}": i for i, name in enumerate(OWN)}, OWN, "m.pt")
    assert found == {name: i for i, name in enumerate(OWN)}
    told = ".".join(word for word in prefix.split(".") if word not in ("_orig_mod", "_fsdp_wrapped_module"))
    told = told.replace("_forward_module.", "").replace("module.", "" if told.startswith("module.") else "module.")
    assert len(lines) == bool(told) and all(f"m.pt: every name begins with {told!r}" in line for line in lines)


def test_a_prefix_that_brings_no_name_of_the_model_stays() -> None:
    with collected() as lines:
        assert set(fitted({"net.x.weight": 0, "net.y.weight": 0}, OWN, "m.pt")) == {"net.x.weight", "net.y.weight"}
        # One tower alone: its own words are no prefix.
        assert set(fitted({"visual.conv1.weight": 0, "visual.proj": 0}, OWN, "m.pt")) == set(OWN[:2])
    assert not lines


@pytest.mark.parametrize(
    ("prefixes", "told"),
    [
        (("teacher.", "student."), "teacher., student."),
        (("model.teacher.", "model.student."), "model.teacher., model.student."),
        (("student.backbone.", "teacher.backbone.", "momentum.net.module."), "student., teacher., momentum."),
        (("module.a._orig_mod.", "module.b._orig_mod."), "a., b."),
    ],
)
def test_two_models_side_by_side_are_refused(prefixes: tuple[str, ...], told: str) -> None:
    state = {f"{prefix}{name}": 0 for prefix in prefixes for name in OWN} | {f"{prefixes[0]}head.weight": 0}
    with pytest.raises(InputError, match=re.escape(f"m.pt: holds several models ({told})")):
        fitted(state, OWN, "m.pt")


def test_towers_that_resemble_each_other_are_no_two_models() -> None:
    """What is left of a name without `visual.` is a name of the text tower in OpenCLIP's models."""
    blocks = [f"transformer.resblocks.{i}.weight" for i in range(9)]
    own = [*blocks, *(f"visual.{name}" for name in blocks)]
    for names in (own, [f"text.{name}" for name in blocks] + own[9:]):
        assert set(fitted(dict.fromkeys(names, 0), own, "m.pt")) == set(names)


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
