"""Defenses, one file each, all with the same signature: (clip, data, config, work) → cure of that clip in place.

Adding one is one file with a frozen `Config`, a `defend` function and the `Defense` of both, and one line in
`DEFENSES`, or an entry point `unbackdoor.defenses` of another package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unbackdoor.base.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unbackdoor.defenses.base import Defense

DEFENSES: Registry[Defense] = Registry(
    "defense",
    {
        "lora": ("unbackdoor.defenses.trigger_vector:LORA", "trigger vector of low rank, led back to clean embeddings"),
        "distilled": (
            "unbackdoor.defenses.trigger_vector:DISTILLED",
            "trigger vector of the whole tower, led back to clean embeddings",
        ),
        "anchored": (
            "unbackdoor.defenses.trigger_vector:ANCHORED",
            "trigger vector towards the target, clean embeddings held",
        ),
        "tbar": ("unbackdoor.defenses.trigger_vector:TBAR", "trigger vector as published"),
        "nothing": ("unbackdoor.defenses.nothing:DEFENSE", "leave the suspect as it is"),
        "contrastive": ("unbackdoor.defenses.contrastive:DEFENSE", "CLIP's own loss on clean pairs"),
        "supervised": ("unbackdoor.defenses.supervised:DEFENSE", "cross-entropy on clean labels"),
        "linear-probe": ("unbackdoor.defenses.linear_probe:DEFENSE", "a new linear head on frozen towers"),
        "interpolate": ("unbackdoor.defenses.interpolate:DEFENSE", "half way back to the pre-trained weights"),
        "ascent": ("unbackdoor.defenses.ascent:DEFENSE", "gradient ascent on triggered images"),
        "fine-pruning": ("unbackdoor.defenses.fine_pruning:DEFENSE", "cut dormant units, then fine-tune"),
        "anp": ("unbackdoor.defenses.anp:DEFENSE", "prune the neurons that break most easily"),
        "ibau": ("unbackdoor.defenses.ibau:DEFENSE", "adversarial unlearning by the implicit hypergradient"),
        "abl": ("unbackdoor.defenses.abl:DEFENSE", "isolate likely poison, then unlearn it"),
        "cleanclip": ("unbackdoor.defenses.cleanclip:DEFENSE", "contrastive fine-tuning, each modality by itself too"),
        "roclip": ("unbackdoor.defenses.roclip:DEFENSE", "match images with a pool of captions"),
        "par": ("unbackdoor.defenses.par:DEFENSE", "push embeddings away from the suspect's, then recover"),
    },
    "unbackdoor.defenses",
)


def defense_names() -> tuple[str, ...]:
    """Names of every registered defense."""
    return DEFENSES.names()


def defense(name: str) -> Defense:
    """The defense behind a name.

    Raises:
        InputError: unknown defense, or another package's that is none.
    """
    from unbackdoor.defenses.base import Defense

    return DEFENSES.get_a(Defense, name)


def defense_config(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """The configuration behind a name, its paper's defaults changed by `settings`.

    Raises:
        InputError: unknown defense or setting.
    """
    from unbackdoor.defenses.base import configured

    return configured(f"defense {name}", defense(name).config, settings or {})
