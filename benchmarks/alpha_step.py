"""One step to another α: `Walk` in place against reload-and-add, the form of the task-vector literature's code.

    python benchmarks/alpha_step.py [--model ViT-B-32] [--rounds 9]

Reload-and-add reads the suspect's state dict from its file, makes a new dict of sums and loads it into the model, for
every α. Each side is a process of its own, so that memory is its own: `held` is resident before the first step (model
and vector on both sides, ours keeps the suspect's weights besides), `peak` the most while stepping. The weights that a
side ends with are compared with the sum. Beside them a plain copy of the same bytes, `b.copy_(a)`. Random weights, two
threads.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from race import options

ALPHAS = (0.5, 1.0, 0.75, 2.0, 1.25)


def prepare(model: str, folder: Path, told: Connection) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {name: t.contiguous() for name, t in open_clip.create_model(model).state_dict().items()}
    tau = {name: 1e-3 * torch.randn_like(t) for name, t in state.items() if t.is_floating_point()}
    torch.save(state, folder / "theta.pt")
    save_file(tau, folder / "tau.safetensors")
    told.send(sum(t.numel() * t.element_size() for t in tau.values()))


def side(name: str, model: str, folder: Path, rounds: int, told: Connection) -> None:
    import open_clip
    import torch
    from safetensors.torch import load_file

    from unbackdoor.base.manifest import peak_memory, reset_peak_memory
    from unbackdoor.weights.vector import Walk

    torch.set_num_threads(2)
    clip = open_clip.create_model(model)
    clip.load_state_dict(torch.load(folder / "theta.pt", weights_only=True))
    tau = load_file(folder / "tau.safetensors")
    flat = torch.cat([t.flatten() for t in tau.values()]) if name == "copy" else torch.empty(0)
    other = torch.empty_like(flat)
    walk = Walk(clip.state_dict(), tau) if name == "in place" else None
    seconds = []
    gc.collect()
    reset_peak_memory()
    held = peak_memory()
    for turn in range(rounds + 1):
        alpha = ALPHAS[turn % len(ALPHAS)]
        began = time.perf_counter()
        if walk is not None:
            walk.to(alpha)
        elif name == "reload and add":
            state = torch.load(folder / "theta.pt", weights_only=True)
            clip.load_state_dict({k: t - alpha * tau[k] if k in tau else t for k, t in state.items()})
        else:
            other.copy_(flat)
        seconds.append(time.perf_counter() - began)
    peak = peak_memory()
    if name != "copy":
        wanted = torch.load(folder / "theta.pt", weights_only=True)
        alpha = ALPHAS[rounds % len(ALPHAS)]
        now = clip.state_dict()
        gap = max(float((now[k] - (wanted[k] - alpha * t)).abs().max()) for k, t in tau.items())
        assert gap < 1e-5, gap
    told.send((seconds[1:], held, peak))


def called(function: Any, *given: object) -> Any:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=function, args=(*given, there))
    child.start()
    there.close()
    found = here.recv()
    child.join()
    return found


def main() -> None:
    args = options(__doc__, model="ViT-B-32", rounds=9)
    with tempfile.TemporaryDirectory() as folder:
        size = called(prepare, args.model, Path(folder))
        rows, peaks = {}, {}
        for name in ("in place", "reload and add", "copy"):
            seconds, held, peak = called(side, name, args.model, Path(folder), args.rounds)
            rows[name], peaks[name] = statistics.median(seconds), (held, peak)
            span = {"least": min(seconds), "median": rows[name], "most": max(seconds)}
            told = {k: round(1000 * v, 1) for k, v in span.items()}
            print(json.dumps({"side": name, "milliseconds": told, "held_mib": round(held), "peak_mib": round(peak)}))
    print(
        f"{args.model}, {size / 1e6:.0f} MB: reload and add takes {rows['reload and add'] / rows['in place']:.1f} "
        f"times as long as a step in place, which takes {rows['in place'] / rows['copy']:.2f} times as long as a copy; "
        f"in place the peak is {peaks['in place'][1] / peaks['reload and add'][1]:.2f} of the other's"
    )


if __name__ == "__main__":
    main()
