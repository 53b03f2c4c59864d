"""The zero-shot head of ImageNet's classes × 80 templates: `Clip.zero_shot_head` against OpenCLIP's own builder.

    python benchmarks/text_head.py [--model ViT-B-32] [--classes 12] [--rounds 5]

Random weights, a sample of the classes, two threads, alternating order in one process; heads are compared first.
"""

from __future__ import annotations

import open_clip
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

import unbackdoor
from race import options, race
from unbackdoor.data.classnames import templates as find_templates


def main() -> None:
    args = options(__doc__, model="ViT-B-32", classes=12, rounds=5)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    clip = unbackdoor.load(f"random:{args.model}", device="cpu")
    names = list(IMAGENET_CLASSNAMES)[:: len(IMAGENET_CLASSNAMES) // args.classes][: args.classes]
    prompts = find_templates("openai-imagenet")
    assert [p.replace("{}", "x") for p in prompts] == [t("x") for t in OPENAI_IMAGENET_TEMPLATES]
    tokenizer = open_clip.get_tokenizer(args.model)

    def ours() -> torch.Tensor:
        clip._heads.clear()
        return clip.zero_shot_head(names, prompts)

    def theirs() -> torch.Tensor:
        return open_clip.build_zero_shot_classifier(
            clip.model, tokenizer, names, OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=10, device="cpu"
        ).T

    gap = float((ours() - theirs()).abs().max())
    print(f"{args.model}, {len(names)} classes of {len(prompts)} templates; heads differ by at most {gap:.1e}")
    assert gap < 1e-6
    medians = race({"unbackdoor": ours, "open_clip": theirs}, args.rounds)
    print(f"open_clip takes {medians['open_clip'] / medians['unbackdoor']:.2f} times as long; {args.rounds} rounds")


if __name__ == "__main__":
    main()
