"""What a scan takes, told before it begins; and a budget, kept by searching less.

Time is counted in pictures that go through the model, forward or forward and back, which every search's own settings
tell, and a picture's time is measured on this model. Before each part the budget asks what has been spent and how far
the real times lie from the expected ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from unbackdoor.base.devices import half_type
from unbackdoor.base.manifest import peak_memory
from unbackdoor.scan import narrowing, relatives, twins
from unbackdoor.scan.inverters import collapse, guided, inverter, patch
from unbackdoor.scan.inverters.base import Asked, Effort, Subject

# What an inverter is worth when not all can run: the calibration half of the zoo is told apart best by these first
# (`recipes/figures/budget.py`), but for single waves, which nothing else sees and which cost little. Others come last.
WORTH = ("additive", "collapse", "patch", "spectral", "wave", "warp", "colour")
_MEASURED = 16  # pictures of a timed step
_TRAINING = 1.5  # times a search's step: gradients of weights come on top of those of what is before them
TWIN, NARROWING = "twin", "narrowing"


@dataclass(frozen=True)
class Rates:
    """Seconds a picture: forward, forward and back, and the latter in a half type where the device is faster in one."""

    forward: float
    both: float
    half: float

    def of(self, effort: Effort) -> float:
        """Seconds of an effort."""
        return effort.both * (self.half if effort.half else self.both) + effort.forward * self.forward


@dataclass(frozen=True)
class Cost:
    """What to expect of a scan.

    Args:
        seconds: of each inverter, and what comes before them: `twin` and `narrowing`, where there is one.
        training: seconds to train a clean relative, which is then examined as the suspect is.
        memory: bytes at most, the process as it is included; on another device than the CPU, those of the search there.
    """

    seconds: Mapping[str, float]
    training: float
    memory: int

    def before(self) -> float:
        """Seconds before the first inverter."""
        return sum(self.seconds.get(name, 0.0) for name in (TWIN, NARROWING))

    def line(self, chosen: Sequence[str], most: int) -> str:
        """For people.

        Args:
            chosen: inverters that are to run.
            most: clean relatives at most.
        """
        scan = self.before() + sum(self.seconds[name] for name in chosen)
        more = f"; then up to {most} clean relatives, about {_span(scan + self.training)} each" if most else ""
        return f"the scan takes about {_span(scan)} and up to {self.memory / 2**30:.1f} GB of memory{more}"


def cost_of(subject: Subject, inverters: Sequence[str]) -> Cost:
    """Measure a few steps on the model, and count what the searches ask for.

    Raises:
        InputError: unknown inverter.
    """
    rates, twin = _rates(subject), subject.origin is not None
    asked = Asked(min(len(subject.names), narrowing.LIMIT), subject.clip.image_size, twin)
    seconds = {name: rates.of((inverter(name).effort or guided.effort)(asked)) for name in inverters}
    if twin:
        learned = twins.STEPS * twins.BATCH
        seconds[TWIN] = _TRAINING * rates.of(Effort(learned, half=True)) + rates.of(Effort(0, learned))
    if narrowing.in_force(len(subject.names)):
        seconds[NARROWING] = sum(map(rates.of, narrowing.efforts(asked)))
    steps = (relatives.LEAST_STEPS + relatives.MOST_STEPS) / 2
    training = _TRAINING * rates.of(Effort(int(steps * relatives.BATCH), half=True))
    return Cost(seconds, training, _memory(subject))


def in_order(inverters: Sequence[str]) -> list[str]:
    """Inverters by what they are worth, the most first."""
    return sorted(inverters, key=lambda name: WORTH.index(name) if name in WORTH else len(WORTH))


def _rates(subject: Subject) -> Rates:
    clip = subject.clip
    rows = torch.arange(min(_MEASURED, len(subject.images)))
    pictures = subject.images.float_batch(rows).to(clip.device)

    def forward() -> None:
        with torch.no_grad():
            clip.encode_image(pictures)

    def both(compute: torch.dtype | None) -> None:
        change = torch.zeros_like(pictures[:1], requires_grad=True)
        clip.encode_image(pictures + change, compute=compute).sum().backward()

    half = half_type(clip.device)
    full = _timed(lambda: both(None), clip.device)
    faster = full if half is None else _timed(lambda: both(half), clip.device)
    return Rates(*(seconds / len(rows) for seconds in (_timed(forward, clip.device), full, faster)))


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step, the lesser of two after a first that settles things."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _memory(subject: Subject) -> int:
    raw = patch.FAMILY.start(1, subject.clip.image_size, torch.Generator()).to(subject.clip.device)
    one = replace(subject, images=subject.images.subset(torch.arange(1)))
    picture = guided.bytes_of_picture(one, patch.FAMILY, raw)
    config = collapse.CollapseConfig()
    searched = guided.GuidedConfig().pictures * min(len(subject.names), narrowing.LIMIT)
    # The largest of: a guided round, feature collapse, the training of a twin with its gradients and two moments.
    steps = max(min(searched * picture, guided.MEMORY), config.restarts * config.pictures * picture)
    weights = sum(t.numel() * t.element_size() for t in subject.clip.image_parameters().values())
    if subject.origin is not None:
        steps = max(steps, twins.BATCH * picture + 3 * weights) + 2 * weights
    own = 0 if subject.clip.device.type != "cpu" else int(peak_memory() * 2**20)
    return own + steps


@dataclass
class Budget:
    """Seconds for a scan and for the clean relatives that are examined alike.

    Args:
        seconds: in all, from when this is made.
        cost: what was expected.
        relatives: how many are to be made.
    """

    seconds: float
    cost: Cost
    relatives: int = 0
    began: float = field(default_factory=time.monotonic)
    expected: float = 0.0
    taken: float = 0.0

    @property
    def pace(self) -> float:
        """How many times as long as expected things take."""
        return self.taken / self.expected if self.expected else 1.0

    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def least(self, inverters: Sequence[str]) -> float:
        """Seconds that the least scan is expected to take: by one inverter, without relatives."""
        return self.cost.before() + self.cost.seconds[in_order(inverters)[0]]

    def fits(self, name: str) -> bool:
        """Whether there is time for a part of the scan, and for the same part of every relative's."""
        one = self.cost.seconds[name]
        again = self.relatives * (self.cost.training + self.expected + one)
        return self.pace * (one + again) <= self.left()

    def spend(self, name: str, taken: float) -> None:
        """A part that was expected is done."""
        self.expected += self.cost.seconds.get(name, 0.0)
        self.taken += taken

    def resume(self, taken: Mapping[str, float]) -> None:
        """What a killed run took, by part, counts as well."""
        for name, seconds in taken.items():
            self.spend(name, seconds)
            self.began -= seconds

    def room(self, taken: Sequence[float]) -> bool:
        """Whether there is time for one more relative.

        Args:
            taken: seconds of those made so far.
        """
        expected = self.pace * (self.cost.training + self.expected)
        return max(taken, default=expected) <= self.left()


def _span(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
