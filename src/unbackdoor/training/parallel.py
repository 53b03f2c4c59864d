"""One run on several processes, started by `accelerate launch` or `torchrun`; a plain run needs neither.

Every process holds the whole model and takes its slice of each global batch. Gradients are averaged after every
backward pass, so that the loss being minimised is the mean over the processes of what `loss_at` returns:

* a loss computed in full by every process is right as it stands;
* a mean over the process's own slice is multiplied by `Slice.weight`, which makes unequal slices exact;
* a loss over embeddings that `gather` collected from all processes is the global loss itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unbackdoor.base.devices import process_count
from unbackdoor.base.errors import InputError

_BUCKET = 1 << 24  # gradient elements averaged at a time, so that the copy stays small beside the model


@dataclass(frozen=True)
class Slice:
    """This process's part of a batch.

    Args:
        rows: row numbers, at least one: where the batch is too small for all processes, a row that does not count.
        kept: how many of `rows` count, 0 or all.
        weight: factor on a mean over `rows`, so that the mean over all processes is the mean over the batch.
    """

    rows: Tensor
    kept: int
    weight: float


@dataclass(frozen=True)
class Ranks:
    """The processes of this run: which one this is, and what they do together; alone, all of it does nothing."""

    rank: int = 0
    count: int = 1

    def slice(self, rows: Tensor) -> Slice:
        """This process's part of the batch `rows` (B,): consecutive, and as even as can be."""
        own = rows.tensor_split(self.count)[self.rank]
        return Slice(own if len(own) else rows[:1], len(own), self.count * len(own) / len(rows))

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (b, D) or (b,) of all processes, in their order; b may differ. Gradients flow back to their owners."""
        if self.count == 1:
            return rows
        every: Tensor = _Gather.apply(rows, self)
        return every

    def mean(self, value: Tensor) -> float:
        """Mean of one number over the processes."""
        if self.count == 1:
            return float(value)
        total = value.detach().double().reshape(1).clone() if value.device.type != "mps" else value.detach().reshape(1)
        _all_reduce(total)
        return float(total) / self.count

    def average_gradients(self, params: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes; where only some have one, the others count as 0."""
        if self.count == 1:
            return
        have = torch.tensor([p.grad is not None for p in params], dtype=torch.float32, device=params[0].device)
        _all_reduce(have)
        bucket: list[nn.Parameter] = []
        for p, owners in zip(params, have.tolist(), strict=True):
            if owners:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                bucket.append(p)
                if sum(q.numel() for q in bucket) >= _BUCKET:
                    self._average(bucket)
                    bucket = []
        if bucket:
            self._average(bucket)

    def _average(self, bucket: list[nn.Parameter]) -> None:
        grads = [p.grad for p in bucket if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        _all_reduce(flat)
        for grad, mean in zip(grads, (flat / self.count).split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def agree(self, value: int) -> bool:
        """Whether all processes hold the same whole number."""
        return self.count == 1 or set(_collect(torch.tensor([value]), self.count).tolist()) == {value}


def wait_for_all() -> None:
    """Wait until all processes of this run are here; nothing when there is one, or when they never met."""
    if process_count() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()


def open_ranks(device: torch.device) -> Ranks:
    """The processes that share this run, as the environment tells; connects them on the first call.

    Args:
        device: where this process's model lies; decides how the processes talk (NCCL between GPUs, else gloo).

    Raises:
        InputError: there are several, and Accelerate is not installed.
    """
    if process_count() == 1:
        return Ranks()
    try:
        from accelerate import PartialState
    except ImportError:
        raise InputError("several processes need accelerate: pip install 'unbackdoor[multi]'") from None
    state: Any = PartialState(cpu=device.type != "cuda")
    return Ranks(state.process_index, state.num_processes)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        sizes = _collect(torch.tensor([len(rows)]), ranks.count).tolist()
        ctx.start, ctx.size = sum(sizes[: ranks.rank]), len(rows)
        return _collect(rows, ranks.count, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Every process's loss depends on these rows; `average_gradients` will divide by their number.
        total = grad.contiguous().clone()
        _all_reduce(total)
        return total[ctx.start : ctx.start + ctx.size], None


def _collect(rows: Tensor, count: int, sizes: Sequence[int] | None = None) -> Tensor:
    """Rows of all processes, in their order; `sizes` says how many each has, one and all the same number without."""
    sizes = sizes or [len(rows)] * count
    place = rows.device if torch.distributed.get_backend() == "gloo" else torch.device("cuda")
    padded = rows.new_zeros(max(sizes), *rows.shape[1:]).to(place)
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in range(count)]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(rows.device)


def _all_reduce(tensor: Tensor) -> None:
    torch.distributed.all_reduce(tensor)
