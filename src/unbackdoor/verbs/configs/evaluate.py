"""What `evaluate` takes."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.metrics.backdoor import COUNTINGS
from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

PRECISIONS = ("auto", "float32")


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured, and how it is answered.

    Args:
        precision: `auto` answers in bfloat16 where the device is faster in it, and in float32 wherever that could have
            changed an answer (`unbackdoor.evaluation.half.Answers`); `float32` answers in float32 alone.
        retrieval: also find captions by image and images by caption; class names and labels are not needed then.
    """

    counting: str = setting(
        "standard", "How ASR is counted; the others reproduce those papers' code.", choices=COUNTINGS
    )
    precision: str = setting(
        "auto",
        "auto: bfloat16 where that is faster, float32 wherever it could change an answer.",
        choices=PRECISIONS,
    )
    retrieval: bool = setting(False, "Also measure R@1/5/10 between images and their captions.")


EVALUATE = Parameters(
    EvaluateConfig,
    needs=("model", "data"),
    takes=("trigger", "target", "limit", "checkpoint", "classes", "templates", "device", "seed"),
    changes={"trigger": {"help": "Trigger spec; with --target, ASR and triggered accuracy are measured too."}},
)
