"""θ − α·τ from file to file: `unbackdoor weights apply` against `mergekit-pytorch`, and against a plain copy.

    python benchmarks/file_arithmetic.py race --mergekit PATH/bin/mergekit-pytorch [--model ViT-B-32] [--folder TMP]
    python benchmarks/file_arithmetic.py large [--gigabytes 12] [--folder TMP]

`race`: whole processes, one after the other in alternating order, the same random weights; outputs are compared first.
mergekit knows models, not vectors: it is given θ and θ + τ and adds −α times their difference. `large`: a sharded model
of so many GB, half of it moved by a vector, under a limit of 2 GiB on the process's address space, against `cp` and
`sync` of the model. Files are read once before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ALPHA = 0.7
LIMIT = 2 * 1024**3


def run(command: list[str], limit: int | None = None) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a whole process."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    env = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    began = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, preexec_fn=bound, text=True
    )
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command[0]} failed: {child.stderr.read()[-800:] if child.stderr else ''}")
    return seconds, used.ru_maxrss / 1024


def ours(model: Path, vector: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "unbackdoor", "weights", "apply", str(model), str(vector), "--alpha", str(ALPHA),
            "--out", str(out)]  # fmt: skip


def race(args: argparse.Namespace, folder: Path) -> None:
    a, t = folder / "a.safetensors", folder / "t.safetensors"
    apart(_make, args.model, folder)
    config = folder / "merge.yml"
    config.write_text(
        f"merge_method: task_arithmetic\nbase_model: {a}\ndtype: float32\nmodels:\n"
        f"  - model: {folder / 'b.safetensors'}\n    parameters: {{weight: {-ALPHA}, density: 1.0}}\n"
    )
    sides = {
        "unbackdoor": ours(a, t, folder / "ours.safetensors"),
        "mergekit": [str(args.mergekit), str(config), str(folder / "theirs")],
    }
    for side in sides.values():
        run(side)
    print(f"{args.model}, {a.stat().st_size / 1e6:.0f} MB float32")
    apart(_compare, folder)
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            told[name].append(run(sides[name]))
    table(told, "unbackdoor", "mergekit")


def apart(function: Callable[..., None], *given: object) -> None:
    """Call it in a process of its own: a child's peak memory is counted from its parent's."""
    child = multiprocessing.get_context("spawn").Process(target=function, args=given)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def _make(model: str, folder: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {name: t.contiguous() for name, t in open_clip.create_model(model).state_dict().items()}
    tau = {name: 1e-3 * torch.randn_like(t) for name, t in state.items() if t.is_floating_point()}
    save_file(state, folder / "a.safetensors")
    save_file({name: w + tau[name] if name in tau else w for name, w in state.items()}, folder / "b.safetensors")
    save_file(tau, folder / "t.safetensors")


def _compare(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    state, tau, mine = (load_file(folder / f"{name}.safetensors") for name in ("a", "t", "ours"))
    theirs = {k: v for file in (folder / "theirs").glob("*.safetensors") for k, v in load_file(file).items()}
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], state[name] - ALPHA * tau[name]) for name in tau)
    gap = max(float((mine[name].float() - theirs[name].float()).abs().max()) for name in mine)
    print(f"ours is the plain reference to the bit; the two outputs differ by at most {gap:.1e}", flush=True)
    assert gap < 1e-5


def large(args: argparse.Namespace, folder: Path) -> None:
    model, vector = folder / "model", folder / "vector.safetensors"
    apart(_make_large, args.gigabytes, model, vector)
    sides: dict[str, tuple[Callable[[Path], list[str]], int | None]] = {
        "unbackdoor": (lambda out: ours(model, vector, out), LIMIT),
        "copy": (lambda out: ["sh", "-c", f"cp -r {model} {out} && sync {out}/*"], None),
    }
    told: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            command, limit = sides[name]
            out = folder / f"{name}-out"
            told[name].append(run(command(out), limit))
            subprocess.run(["rm", "-r", str(out)], check=True)
    files = list(model.glob("*.safetensors"))
    size, moved = sum(file.stat().st_size for file in files), vector.stat().st_size
    print(
        f"{len(files)} shards, {size / 1e9:.1f} GB, {moved / 1e9:.1f} GB of them moved; address space of {LIMIT} bytes"
    )
    table(told, "unbackdoor", "copy")


def _make_large(gigabytes: float, model: Path, vector: Path) -> None:
    model.mkdir()
    shards, places = max(2, round(gigabytes / 2)), dict[str, str]()
    rows = np.random.default_rng(0).standard_normal((4096, 4096), np.float32)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        names = [f"layers.{shard}.{i}.weight" for i in range(max(1, int(gigabytes * 1e9) // shards // rows.nbytes))]
        write(model / file, {name: rows for name in names})
        places |= dict.fromkeys(names, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    write(vector, {name: rows for name in list(places)[::2]})


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Safetensors, one tensor in memory at a time."""
    at, header = 0, {}
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            file.write(t.data)


def table(told: dict[str, list[tuple[float, float]]], one: str, other: str) -> None:
    print("| | seconds: least | median | most | peak resident MiB, median |")
    print("| --- | --- | --- | --- | --- |")
    for name, rows in told.items():
        seconds = [s for s, _ in rows]
        memory = statistics.median(m for _, m in rows)
        print(f"| {name} | {min(seconds):.2f} | {statistics.median(seconds):.2f} | {max(seconds):.2f} | {memory:.0f} |")
    (a, x), (b, y) = ([statistics.median(part) for part in zip(*told[name], strict=True)] for name in (one, other))
    print(f"{other} takes {b / a:.2f} times as long and {y / x:.2f} times the memory; {len(told[one])} rounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("race", "large"):
        part = parts.add_parser(name)
        part.add_argument("--folder", type=Path, help="where files of some GB may lie for a while")
        part.add_argument("--rounds", type=int, default=7 if name == "race" else 5)
    parts.choices["race"].add_argument("--mergekit", type=Path, required=True)
    parts.choices["race"].add_argument("--model", default="ViT-B-32")
    parts.choices["large"].add_argument("--gigabytes", type=float, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        {"race": race, "large": large}[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
