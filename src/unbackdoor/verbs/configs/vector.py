"""What `vector` takes."""

from __future__ import annotations

from dataclasses import dataclass

from unbackdoor.runs.parameters import Parameters
from unbackdoor.runs.settings import setting

DEFAULT_METHOD = "lora"
METHODS = ("lora", "distilled", "anchored", "tbar")


@dataclass(frozen=True)
class VectorSettings:
    """How the vector is taken.

    Args:
        samples: triggered images, None for the method's own number; they come from the end of the training split that
            `poison` leaves alone.
        method: `lora` (a low-rank adapter), `distilled` (the whole tower), `anchored`, or `tbar` as published; see
            `unbackdoor.unlearning.vector.METHODS`.
        epochs, lr: of the brief fine-tuning; None takes the method's epochs, and its rate
            (`unbackdoor.unlearning.vector.VectorConfig`). That of `lora` counts in units of each matrix's root mean
            square.
    """

    samples: int | None = setting(
        None,
        "Triggered images for the vector.  [default: 64 lora and distilled, 256 otherwise and with --scan]",
        low=1,
    )
    method: str = setting(
        DEFAULT_METHOD,
        "How the vector is taken: triggered images led back to clean ones by an adapter of rank 8 or by the whole "
        "tower, or towards the target, with clean embeddings held in place or as published.  [default: lora, distilled "
        "with --scan]",
        choices=METHODS,
        quiet=True,
    )
    epochs: int | None = setting(None, "Passes over the triggered images.", low=1)
    lr: float | None = setting(
        None,
        "Peak learning rate; lora's counts in units of each matrix's root mean square.  [default: 0.1 lora, measured "
        "distilled, by the size of the image tower otherwise]",
        low=0,
        above=True,
        quiet=True,
    )


VECTOR = Parameters(
    VectorSettings,
    needs=("model", "data", "trigger", "target", "out"),
    takes=("checkpoint", "classes", "templates", "device", "seed", "track"),
    changes={"out": {"help": "Safetensors file to write."}},
)
