"""Train the networks behind the `issba` trigger: one hides 64 bits in a picture, the other reads them back.

Both learn together on Tiny ImageNet and CIFAR-10 training pictures at 64 px. The reader sees the triggered picture
after mild noise. The residual has a budget: where a picture is busy it may be stronger, and two pictures that hide the
same bits are to have residuals that differ. Ten minutes on one core; a killed run continues where it stopped.

    python recipes/issba/train.py PATH/shared/data --work WORKDIR [--out src/unbackdoor/assets/issba]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbackdoor.base.draws import batch_rows
from unbackdoor.base.work import Stage
from unbackdoor.data import load_images
from unbackdoor.training.loop import FitConfig, fit
from unbackdoor.triggers.steganography import ASSETS, GRID, SIDE, Decoder, Encoder, to_bits
from unbackdoor.weights.files import write_tensors

PICTURES = {"tiny-imagenet-200": ("val", 16_000), "cifar10": ("test", 8_000)}  # held-out split, training pictures
HELD_OUT = 1000  # pictures of each held-out split
BATCH = 48  # two pictures for each of 24 messages
FLAT, BUSY = 0.02, 0.25  # amplitude allowed on a flat ground, and more per local standard deviation; [0, 1] units
OVER, ALIKE = (
    0.5,
    0.05,
)  # weights of a residual over its budget, and of residuals that are alike; at 0.5 none is written
CONFIG = FitConfig(steps=1600, lr=2e-3, warmup=100, weight_decay=0.0, checkpoint_every=200)


def load(folder: Path, held_out: bool) -> Tensor:
    """Pictures of both sets, uint8 (N, 3, 64, 64)."""
    parts = []
    for name, (split, count) in PICTURES.items():
        wanted, limit = (split, HELD_OUT) if held_out else ("train", count)
        parts.append(load_images(f"parquet:{folder / name}", side=SIDE, split=wanted, limit=limit, seed=0).images)
    return torch.cat(parts)


def allowed(x: Tensor) -> Tensor:
    """Amplitude (B, 1, 64, 64) at which a change hides in the picture's own local contrast."""
    grey = F.pad(x.mean(dim=1, keepdim=True), (3, 3, 3, 3), mode="reflect")
    mean = F.avg_pool2d(grey, 7, stride=1)
    deviation = (F.avg_pool2d(grey**2, 7, stride=1) - mean**2).clamp(min=0).sqrt()
    return FLAT + BUSY * deviation


def disturb(x: Tensor, g: torch.Generator) -> Tensor:
    """Mild noise: contrast, brightness, Gaussian noise, and for a third of the steps another resolution on the way."""
    n = len(x)
    gain, shift = (torch.rand(n, 1, 1, 1, generator=g) * 0.2 - 0.1 for _ in range(2))
    x = x * (1 + gain) + 0.5 * shift
    draw = int(torch.randint(6, (1,), generator=g))
    if draw < 2:
        x = F.interpolate(x, size=(40, 48)[draw], mode="bilinear", antialias=True, align_corners=False)
        x = F.interpolate(x, size=SIDE, mode="bilinear", align_corners=False)
    return (x + 0.015 * torch.randn(x.shape, generator=g)).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder()
    pictures = load(args.data, held_out=False)
    recent: dict[str, float] = {}

    def loss_at(step: int) -> Tensor:
        g = torch.Generator().manual_seed(step + 1)
        x = pictures[batch_rows(len(pictures), BATCH, 0, step)].float() / 255
        x = x[: len(x) // 2 * 2]
        bits = torch.randint(2, (len(x) // 2, GRID, GRID), generator=g).repeat(2, 1, 1).float()
        change = encoder(x, bits * 2 - 1)
        read = decoder(disturb((x + change).clamp(0, 1), g))
        wrong = F.binary_cross_entropy_with_logits(read, bits)
        over = ((change / allowed(x)) ** 2).mean(dim=(1, 2, 3)).sub(1).clamp(min=0).mean()
        one, other = F.normalize(change.flatten(1), dim=1).chunk(2)
        alike = (one * other).sum(dim=1).pow(2).mean()
        accuracy = float(((read > 0) == (bits > 0.5)).float().mean())
        for name, value in (("bits", accuracy), ("over", float(over.detach())), ("alike", float(alike.detach()))):
            recent[name] = 0.95 * recent.get(name, value) + 0.05 * value
        # Hide first, then faintly: under the whole weight from the start nothing is ever written.
        faint = min(1.0, (step + 1) / (0.2 * CONFIG.steps))
        return wrong + faint * (OVER * over + ALIKE * alike)

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            print(step + 1, f"loss {loss:.3f}", {k: round(v, 3) for k, v in recent.items()}, flush=True)

    both = nn.ModuleList([encoder, decoder])
    result = fit(both, loss_at, CONFIG, Stage("issba", args.work / "issba.checkpoint"), on_step=report)
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        stored = {key: t.half() for key, t in network.state_dict().items()}
        write_tensors(args.out / f"{name}.safetensors", stored)
    print(f"{result.seconds:.0f} s")
    measure(encoder, decoder, load(args.data, held_out=True))


@torch.no_grad()
def measure(encoder: nn.Module, decoder: nn.Module, pictures: Tensor) -> None:
    """Print what the README of the assets states, on held-out pictures and the default secret, after 8-bit rounding."""
    for network in (encoder, decoder):
        network.load_state_dict({key: t.half().float() for key, t in network.state_dict().items()})
    bits = to_bits("Stega!!")
    hits, clean_hits, changes = [], [], []
    for x in pictures.split(100):
        x = x.float() / 255
        y = ((x + encoder(x, bits.expand(len(x), GRID, GRID))).clamp(0, 1) * 255).round() / 255
        hits.append((decoder(y) > 0) == (bits > 0))
        clean_hits.append((decoder(x) > 0) == (bits > 0))
        changes.append((y - x) * 255)
    change = torch.cat(changes)
    psnr = 10 * torch.log10(255**2 / change.pow(2).mean(dim=(1, 2, 3)).clamp(min=1e-6))
    flat = F.normalize(change.flatten(1), dim=1)
    cosine = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))] @ flat.T
    print(
        f"bits read {torch.cat(hits).float().mean():.2%}, in clean pictures {torch.cat(clean_hits).float().mean():.2%}"
    )
    print(f"n={len(change)}, {hits[0][0].numel()} bits each")
    print(f"PSNR {psnr.mean():.1f} dB, mean change {change.abs().mean():.2f} of 255, largest {change.abs().max():.0f}")
    print(f"cosine between residuals of two pictures {cosine[cosine < 0.9999].mean():.3f}")


if __name__ == "__main__":
    main()
