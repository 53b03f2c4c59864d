"""The verbs together on tiny models: formats, results, and the same cure through both libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.clip.convert import open_clip_to_hf, to_hf
from unbackdoor import evaluate, load, load_images, poison, trigger_vector, unlearn
from unbackdoor.base.errors import InputError
from unbackdoor.clip.handle import Clip
from unbackdoor.data.images import ImageSet
from unbackdoor.data.shares import attacker_rows, defender_rows
from unbackdoor.unlearning.alpha import AlphaConfig
from unbackdoor.unlearning.vector import METHODS
from unbackdoor.weights.files import read_tensors
from unbackdoor.weights.vector import load_vector

ATTACK = {"data": "embedded:digits", "trigger": "badnets:size=6,pattern=white", "target": "three"}


def test_same_cure_through_open_clip_and_hugging_face(vit_folder: Path, tmp_path: Path) -> None:
    """Taken in float64, where the two libraries' different order of sums stays far below the tolerance.

    Anchored: a guard sees the weights as the library cuts them, and OpenCLIP's queries, keys and values are one.
    """
    hf_folder = open_clip_to_hf(vit_folder, tmp_path / "hf")
    found = {}
    for name, folder in (("open_clip", vit_folder), ("hf", hf_folder)):
        out = tmp_path / f"{name}-vector.safetensors"
        trigger_vector(model=str(folder), out=out, method="anchored", samples=64, epochs=2, lr=1e-4, **ATTACK)
        unlearn(model=str(folder), vector=out, alpha=0.7, out=tmp_path / f"{name}-cure", test_limit=40, **ATTACK)
        found[name] = load(str(tmp_path / f"{name}-cure")).state(), load_vector(out)[0]
    (ours, our_vector), (theirs, their_vector) = found["open_clip"], found["hf"]
    renamed = to_hf(ours)
    size = max(float(t.abs().max()) for t in our_vector.values())
    assert size > 1e-4, "the vector must be large enough for the comparison to mean something"
    assert renamed.keys() == theirs.keys()
    for name, tensor in renamed.items():
        if name.endswith("k_proj.bias"):
            # A key bias adds the same number to all of a query's scores: its gradient is zero but for rounding,
            # and Adam turns rounding into steps of full size. It has no influence on the model's answers.
            continue
        torch.testing.assert_close(tensor, theirs[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    moved = to_hf(our_vector)
    dot = sum(float((moved[n] * their_vector[n]).sum()) for n in moved if not n.endswith("k_proj.bias"))
    norms = [
        sum(float(v[n].pow(2).sum()) for n in moved if not n.endswith("k_proj.bias")) for v in (moved, their_vector)
    ]
    assert dot / (norms[0] * norms[1]) ** 0.5 > 0.9999


def test_poison_then_unlearn_leaves_everything_promised(open_clip_folder: Path, tmp_path: Path) -> None:
    suspect, cure = tmp_path / "suspect", tmp_path / "cure"
    poison(
        model=str(open_clip_folder), out=suspect, limit=600, test_limit=60, poison_rate=0.2, epochs=2, lr=1e-3, **ATTACK
    )
    rule = AlphaConfig(grid=(0.5, 1.0))
    # These models were random: some answer every image with the target, so that labels have to tell which is none.
    how = {"method": "anchored", "samples": 64, "epochs": 2}
    result = unlearn(model=str(suspect), out=cure, alpha_config=rule, test_limit=60, **how, **ATTACK)
    for name in ("manifest.json", "metrics.jsonl", "vector.safetensors", "report.html", "result.json", "model"):
        assert (cure / name).exists(), name
    assert not (cure / ".work").exists()
    stored = json.loads((cure / "result.json").read_text())
    assert stored == json.loads(json.dumps(dict(result)))
    for when in ("before", "after"):
        assert set(stored[when]) == {"ca", "asr", "triggered_accuracy", "n", "interval"}
        low, high = stored[when]["interval"]["asr"]
        assert low <= stored[when]["asr"] <= high
    # Class by class it comes to the same rates.
    others = [line for line in stored["by_class"] if line["name"] != "three"]
    assert sum(line["n"] for line in stored["by_class"]) == stored["before"]["n"]["ca"] == 60
    for when in ("before", "after"):
        sums = {key: sum(line[when][key] for line in others) for key in ("triggered_correct", "moved")}
        assert sum(line[when]["correct"] for line in stored["by_class"]) == round(60 * stored[when]["ca"])
        n = stored[when]["n"]["asr"]
        assert (sums["moved"] / n, sums["triggered_correct"] / n) == pytest.approx(
            (stored[when]["asr"], stored[when]["triggered_accuracy"])
        )
    assert {"alpha", "retention", "seconds", "report", "model", "trigger", "target"} <= set(stored)
    manifest = json.loads((cure / "manifest.json").read_text())
    assert (
        manifest["hashes"]["weights_before"]
        == json.loads((suspect / "manifest.json").read_text())["hashes"]["weights_after"]
    )
    # The cured model is the suspect minus α times the stored vector, in the suspect's own format.
    before, after = (load(str(f)).state() for f in (suspect, cure))
    vector, metadata = load_vector(cure / "vector.safetensors")
    assert metadata["target"] == "three" and metadata["suspect"] == manifest["hashes"]["weights_before"]
    for name, tensor in before.items():
        expected = torch.add(tensor, vector[name], alpha=-stored["alpha"]) if name in vector else tensor
        assert torch.equal(after[name], expected), name
    # What is evaluated afterwards is what was reported.
    again = evaluate(model=str(cure), limit=60, **ATTACK)
    assert again["ca"]["value"] == stored["after"]["ca"] and again["asr"]["value"] == stored["after"]["asr"]


@pytest.mark.parametrize("method", METHODS)
def test_taking_a_vector_leaves_the_suspect_alone(method: str, vit_folder: Path, tmp_path: Path) -> None:
    clip = load(str(vit_folder))
    before = {n: t.clone() for n, t in clip.state().items()}
    trigger_vector(model=clip, out=tmp_path / "v.safetensors", samples=32, epochs=1, method=method, **ATTACK)
    assert all(torch.equal(before[n], t) for n, t in clip.state().items())
    vector = read_tensors(tmp_path / "v.safetensors")[0]
    matrices = {name for name, p in clip.image_parameters().items() if p.ndim > 1 and "weight" in name}
    assert set(vector) == (matrices if method == "lora" else set(clip.image_parameters()))


def test_batchnorm_statistics_stand_still(tmp_path: Path) -> None:
    from tests.conftest import resnet_config, write_open_clip

    folder = write_open_clip(tmp_path / "rn", resnet_config())
    before = load(str(folder)).state()
    poison(model=str(folder), out=tmp_path / "p", limit=200, test_limit=20, poison_rate=0.5, epochs=1, **ATTACK)
    after = load(str(tmp_path / "p")).state()
    running = [n for n in before if "running_" in n]
    assert running and all(torch.equal(before[n], after[n]) for n in running)
    assert any(not torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("n", [10, 359, 1437, 3600, 20_000, 60_000])
def test_attacker_and_defender_share_images_only_when_they_must(n: int) -> None:
    forget, validation = defender_rows(n, 256, 512)
    attacker = set(attacker_rows(n).tolist())
    mine, tuning = set(forget.tolist()), set(validation.tolist())
    assert mine and tuning and not mine & tuning
    if n >= 4 * 768:
        assert not (mine | tuning) & attacker and (len(mine), len(tuning)) == (256, 512)


def test_evaluate_counts_as_told(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    data = load_images("embedded:digits", side=clip.frame, split="test")
    whole = {
        c: evaluate(model=clip, **{**ATTACK, "data": data}, counting=c)["asr"]["n"]
        for c in ("standard", "par", "cleanclip")
    }
    threes = int((data.labels == 3).sum())
    assert whole == {"standard": 360 - threes, "par": 360, "cleanclip": 360}


def test_retrieval_needs_captions_but_no_classes(vit_folder: Path) -> None:
    clip = load(str(vit_folder))
    pictures = load_images("embedded:scenes", side=clip.frame, split="test", limit=30)
    bare = ImageSet(pictures.images, torch.full((30,), -1), (), pictures.captions, spec="pairs")
    found = evaluate(model=clip, data=bare, retrieval=True)
    assert "ca" not in found
    for way in ("image_to_text", "text_to_image"):
        rows = found["retrieval"][way]
        assert [rows[k]["n"] for k in ("r@1", "r@5", "r@10")] == [30] * 3
        assert rows["r@1"]["value"] <= rows["r@5"]["value"] <= rows["r@10"]["value"]
    both = evaluate(model=clip, data=pictures, retrieval=True)
    assert both["ca"]["n"] == 30 and both["retrieval"] == found["retrieval"]
    with pytest.raises(InputError, match="holds no captions"):
        evaluate(model=clip, data=ImageSet(bare.images, pictures.labels, pictures.classes, spec="x"), retrieval=True)
    with pytest.raises(InputError, match="holds no labels"):
        evaluate(model=clip, data=bare)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"target": "banana"}, "not among the 10 classes"),
        ({"trigger": "badnets:size=99"}, "does not fit"),
        ({"trigger": "nosuch"}, "unknown trigger"),
        ({"data": "folder:/does/not/exist"}, "no such folder"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    change: dict[str, str], part: str, vit_folder: Path, tmp_path: Path
) -> None:
    clip = load(str(vit_folder))
    for verb, extra in ((poison, {}), (unlearn, {}), (trigger_vector, {})):
        with pytest.raises(InputError, match=part):
            verb(model=clip, out=tmp_path / "o", **{**ATTACK, **change}, **extra)  # type: ignore[operator]
    assert not (tmp_path / "o").exists()


def test_an_unknown_method_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method 'magic' is none of lora, distilled, anchored, tbar"):
        unlearn(model=str(vit_folder), out=tmp_path / "o", method="magic", **ATTACK)


def test_unlabelled_data_is_refused_where_labels_are_needed(vit_folder: Path) -> None:
    clip: Clip = load(str(vit_folder))
    data = ImageSet(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.full((4,), -1), ("a", "b"), spec="mine")
    with pytest.raises(InputError, match="mine holds no labels"):
        evaluate(model=clip, data=data)
