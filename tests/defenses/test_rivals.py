"""Every rival against its own paper's claim, on a tiny CLIP that learns digits from pairs and a patch from poison.

The effects are those of a model with 150 thousand image parameters after some forty steps: signs, not sizes. Where a
claim does not show at this size, the mechanism behind it is tested instead.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import vit_config, write_open_clip
from tests.defenses.conftest import Case
from unbackdoor import load
from unbackdoor.base.work import Work
from unbackdoor.defenses import abl, anp, bounded, fine_pruning, ibau, par, roclip, units
from unbackdoor.defenses.cleanclip import in_modal
from unbackdoor.evaluation.answers import embed
from unbackdoor.training.augment import noise_and_erase, simclr_view, strong_view, vary_caption
from unbackdoor.weights.files import state_hash

SHORT: dict[str, Any] = {"steps": 40, "batch_size": 64, "lr": 1.5e-3}


def test_the_case_is_backdoored_and_plain_fine_tuning_leaves_it_so(case: Case) -> None:
    """CleanCLIP's premise: clean pairs keep the accuracy and do not touch the backdoor."""
    clip, cure = case.cure("contrastive", **SHORT)
    ca, asr = case.rates(clip)
    assert ca > 0.9 and asr > 0.8
    assert cure.images == cure.labels == len(case.data.clean)


def test_cleanclip_lowers_asr_more_than_contrastive_fine_tuning(case: Case) -> None:
    """The same but for the in-modal losses; two runs each, since single runs vary."""

    def runs(**settings: Any) -> list[tuple[float, float]]:
        return [case.rates(case.cure("cleanclip", **{**SHORT, "lr": 3e-3, "seed": s}, **settings)[0]) for s in (0, 1)]

    with_own, without = runs(), runs(in_weight=0.0)
    assert sum(asr for _, asr in with_own) < sum(asr for _, asr in without)
    assert min(ca for ca, _ in with_own) > 0.5


def test_in_modal_loss_shares_the_target_among_equal_texts() -> None:
    rows = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    rows[1] = rows[0]
    alone, shared = (in_modal(rows, rows, 20.0, torch.tensor(g)) for g in ([0, 1, 2, 3], [0, 0, 2, 3]))
    torch.testing.assert_close(alone, shared)  # two equal rows: half of the mass each is the best that can be done
    assert in_modal(rows, rows.roll(2, 0), 20.0, torch.tensor([0, 0, 2, 3])) > shared


def test_par_moves_the_embeddings_further_and_recovers(case: Case) -> None:
    settings = {**SHORT, "lr": 5e-4}
    pushed, cure = case.cure("par", **settings)
    calm, other = case.cure("par", push=False, **settings)
    assert cure.facts["moved"] > 3 * other.facts["moved"]
    assert case.rates(pushed)[0] > 0.7 and state_hash(pushed.state()) != state_hash(calm.state())


def test_par_stops_pushing_beyond_tau() -> None:
    near, far = torch.tensor(2.1, requires_grad=True), torch.tensor(2.2, requires_grad=True)
    (par.pushed(near, 2.15) + par.pushed(far, 2.15)).backward()
    assert near.grad == 1 and far.grad == 0


def test_roclip_matches_images_with_other_texts(case: Case) -> None:
    several = replace(case.data, templates=("a photo of a {}.", "a drawing of the digit {}", "{} on paper"))
    varied = replace(case, data=several)
    _, matched = varied.cure("roclip", **{**SHORT, "steps": 8})
    _, plain = varied.cure("roclip", every=0, **{**SHORT, "steps": 8})
    assert matched.facts["matched_with_another_text"] > 0.05 and plain.facts["matched_with_another_text"] is None
    clip, _ = case.cure("roclip", **SHORT)
    assert case.rates(clip)[1] < case.rates(case.suspect)[1] - 0.05


def test_the_pool_answers_with_the_nearest() -> None:
    pool = roclip.Pool(2, 2, torch.device("cpu"))
    pool.rows.copy_(torch.eye(2))
    assert pool.nearest(torch.tensor([[0.9, 0.1], [0.2, 0.8]])).tolist() == [0, 1]


def test_ascent_drives_asr_down_and_comes_to_rest(case: Case) -> None:
    clip, cure = case.cure("ascent", **{**SHORT, "steps": 32})
    assert case.rates(clip)[1] < 0.1
    assert min(cure.facts["losses"]) >= -2.31, "no image is pushed beyond chance"
    assert cure.labels == 0


def test_bounded_ascent_stops_at_chance() -> None:
    logits = torch.tensor([[5.0, 0.0], [-5.0, 0.0]], requires_grad=True)
    bounded.bounded_ascent(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None and logits.grad[0].abs().sum() > 0 and logits.grad[1].abs().sum() == 0


def test_a_linear_probe_leaves_the_tower_and_the_backdoor_in_it(case: Case) -> None:
    clip, cure = case.cure("linear-probe", steps=300, lr=1e-2)
    assert state_hash(clip.state()) == state_hash(case.suspect.state())
    assert cure.head is not None
    ca, asr = case.rates(clip, cure.head)
    assert ca > 0.85 and asr > 0.5


def test_supervised_fine_tuning_trains_the_head_it_is_told(case: Case) -> None:
    clip, cure = case.cure("supervised", **SHORT)
    assert cure.head is not None and case.rates(clip, cure.head)[0] > 0.7
    zero_shot, without = case.cure("supervised", head="zero-shot", **SHORT)
    assert without.head is None and case.rates(zero_shot)[0] > 0.9
    text = {n: p for n, p in zero_shot.text_parameters().items()}
    assert all(torch.equal(p, case.suspect.text_parameters()[n]) for n, p in text.items())


def test_interpolation_goes_back_to_where_the_model_was_clean(case: Case) -> None:
    clip, cure = case.cure("interpolate")
    ca, asr = case.rates(clip)
    assert asr < 0.1 and ca > 0.9 and 0 < cure.facts["beta"] <= 1
    assert case.data.pretrained is not None
    whole, _ = case.cure("interpolate", beta=1.0)
    for name, p in case.data.pretrained.image_parameters().items():
        torch.testing.assert_close(whole.image_parameters()[name], p, atol=1e-6, rtol=1e-5)
    unknown = replace(case, data=replace(case.data, attack=None))
    assert unknown.cure("interpolate")[1].facts["beta"] == 0.5


def test_fine_pruning_cuts_dormant_units_and_keeps_them_cut(case: Case) -> None:
    """That it lowers ASR does not show on this model, whose patch shares units with the digits: the mechanism does."""
    clip, cure = case.cure("fine-pruning", **{**SHORT, "steps": 12, "lr": 1e-3, "drop": 0.0})
    (hidden,) = units.hidden_units(clip)[-1:]
    facts = cure.facts["layers"][hidden.name]
    silent = (hidden.outgoing == 0).all(dim=0)
    assert 0 < facts["pruned"] < facts["units"] and int(silent.sum()) == facts["pruned"]
    activity = units.mean_activation(case.suspect, case.data.clean, units.hidden_units(case.suspect)[-1])
    assert activity[silent].max() <= activity[~silent].min()
    assert case.rates(clip)[0] > case.rates(case.suspect)[0] - 0.1


def test_pruning_goes_as_far_as_accuracy_allows() -> None:
    assert units.most_allowed(100, lambda count: 1.0 - count / 100, 0.7) == 30
    assert units.most_allowed(100, lambda count: 1.0, 0.7) == 100
    assert units.most_allowed(100, lambda count: 0.0 if count else 1.0, 0.7) == 0


def test_silencing_cuts_one_unit_and_no_other(case: Case) -> None:
    clip = case.suspect.clone()
    hidden = units.hidden_units(clip)[-1]
    activity = units.mean_activation(clip, case.data.clean, hidden)
    dormant, loud = activity.argsort()[0], activity.argsort()[-1]
    fine_pruning.silence(hidden, dormant[None])
    assert (hidden.outgoing[:, dormant] == 0).all() and (hidden.outgoing[:, loud] != 0).any()


def test_scaling_by_hooks_is_scaling_the_weights(case: Case) -> None:
    clip = case.suspect.clone()
    layers = [layer for _, layer in units.scaled_layers(clip)]
    some = case.data.clean.subset(range(4))
    factors = [torch.linspace(0.5, 1.5, units.unit_count(layer)) for layer in layers]
    with units.scaled(layers, lambda i: (factors[i], 2 * factors[i])):
        hooked = embed(clip, some)
    with torch.no_grad():
        for layer, m in zip(layers, factors, strict=True):
            layer.weight.mul_(m[:, None])  # type: ignore[operator]
            layer.bias.mul_(2 * m)  # type: ignore[operator]
    torch.testing.assert_close(hooked, embed(clip, some), atol=1e-5, rtol=1e-4)


def spoilt(case: Case) -> tuple[Case, int]:
    """The suspect with one unit that pulls pictures to a class as it fires, the first at which that does real harm."""
    clip = case.suspect.clone()
    hidden = units.hidden_units(clip)[-1]
    towards = clip.model.visual.proj.detach() @ case.data.head[3]
    own = {name: t.clone() for name, t in clip.state().items()}
    check = case.data.validation.float_batch(range(len(case.data.validation)))
    for unit in range(units.unit_count(hidden.maker)):
        with torch.no_grad():
            hidden.maker.weight[unit].mul_(6)  # type: ignore[index,union-attr]
            hidden.maker.bias[unit].fill_(0)  # type: ignore[index,union-attr]
            hidden.reader.weight[:, unit] = 8 * towards / towards.norm()  # type: ignore[index]
            said = (clip.encode_image(check) @ case.data.head.T).argmax(dim=1)
        if float((said == case.data.validation.labels).float().mean()) < 0.7:
            return replace(case, suspect=clip), unit
        clip.model.load_state_dict(own)
    raise AssertionError("no unit of this model can be made harmful so")


def test_anp_prunes_the_neuron_that_perturbation_breaks(case: Case) -> None:
    """A unit made harmful by hand is found: the masks of sensitive neurons fall, and it is among the few pruned."""
    broken, unit = spoilt(case)
    before = broken.rates(broken.suspect)[0]
    cured, cure = broken.cure("anp", steps=40, lr=0.05, batch_size=64, drop=1.0)
    # A fifth of all units at most: chance would hit this one in at most that share of the cases.
    assert 0 < cure.facts["pruned"] < 0.2 * cure.facts["neurons"]
    assert (units.hidden_units(cured)[-1].maker.weight[unit] == 0).all(), cure.facts  # type: ignore[index]
    assert broken.rates(cured)[0] > before + 0.1
    assert anp.Config().eps == 0.4 and anp.Config().alpha == 0.2


def test_ibau_resists_universal_perturbations_better(case: Case) -> None:
    """Under the same bound, the worst δ for all images costs the cured model less than the suspect."""
    cured, _ = case.cure("ibau", steps=40, batch_size=64, lr=5e-4, bound=2.0)
    clean, test = case.data.clean, case.test

    def worst_accuracy(clip: Any, bound: float = 3.0) -> float:
        delta = torch.zeros(1, 3, 32, 32)
        images, labels = clean.float_batch(range(64)), clean.labels[:64]
        for _ in range(10):
            delta.requires_grad_()
            loss = torch.nn.functional.cross_entropy(
                clip.logit_scale * clip.encode_image(images + delta) @ case.data.head.T, labels
            )
            (slope,) = torch.autograd.grad(loss, delta)
            delta = delta.detach() + 0.2 * bound * slope / slope.norm()
            delta = delta * (bound / delta.norm()).clamp(max=1)
        with torch.no_grad():
            found = clip.encode_image(test.float_batch(range(len(test))) + delta) @ case.data.head.T
        return float((found.argmax(dim=1) == test.labels).float().mean())

    assert worst_accuracy(cured) > worst_accuracy(case.suspect) + 0.03


def test_ibau_gradient_is_the_implicit_one() -> None:
    """On a quadratic game with a known solution, the fixed point gives v = (∂²L/∂δ²)⁻¹ ∂H/∂δ / η."""
    curvature, slope, eta = torch.tensor([[2.0, 0.3], [0.3, 1.0]]), torch.tensor([1.0, -2.0]), 0.3
    v = torch.zeros(2)
    for _ in range(200):
        v = ibau.fixed_point_step(v, curvature @ v, slope, eta)
    torch.testing.assert_close(eta * v, torch.linalg.solve(curvature, slope), atol=1e-4, rtol=1e-4)


def test_abl_isolates_poison_that_is_learnt_first(case: Case) -> None:
    clip = case.suspect.clone()
    assert case.data.training is not None
    training = case.data.training()
    abl.reinitialize(clip, training.float_batch(range(64)), 0)
    rows, steps = abl.isolate(clip, training, case.data.head, abl.Config(share=0.02, isolation_epochs=3), Work())
    assert steps > 0 and float(case.poisoned[rows].float().mean()) > 0.8 > 4 * float(case.poisoned.float().mean())
    still = case.suspect.clone()
    rows, steps = abl.isolate(still, training, case.data.head, abl.Config(share=0.02, isolation_epochs=0), Work())
    assert steps == 0 and state_hash(still.state()) == state_hash(case.suspect.state())


def test_held_up_losses_turn_round_at_gamma() -> None:
    losses = torch.tensor([0.1, 2.0], requires_grad=True)
    abl.held_up(losses, 0.5).backward()
    assert losses.grad is not None and losses.grad.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("view", [strong_view, simclr_view, noise_and_erase])
def test_views_stay_images_and_repeat(view: Any) -> None:
    images = torch.rand(6, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    first, second, other = (view(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == images.shape and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, second) and not torch.equal(first, other) and not torch.equal(first, images)


def test_captions_are_varied_by_their_own_words() -> None:
    caption = "a small black dog runs over wet grass"
    seen = {vary_caption(caption, random.Random(seed)) for seed in range(40)}
    assert len(seen) > 10 and all(set(s.split()) <= set(caption.split()) for s in seen)
    assert {len(s.split()) for s in seen} == {7, 8, 9}
    assert vary_caption("dog", random.Random(0)) == "dog"


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_units_are_found_in_every_kind_of_tower(kind: str, tmp_path: Any) -> None:
    from tests.conftest import CONFIGS

    clip = load(str(write_open_clip(tmp_path / kind, CONFIGS[kind]())))
    for hidden in units.hidden_units(clip):
        assert hidden.outgoing.shape[1] == len(hidden.maker.weight), hidden.name  # type: ignore[arg-type]
    prefixes = clip.format.image_prefixes
    assert all(name.startswith(prefixes) for name, _ in units.scaled_layers(clip))
    assert vit_config()["model_cfg"]["vision_cfg"]["layers"] == 2
