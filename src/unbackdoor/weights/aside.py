"""Tensors put aside to be fetched once or twice: where they are while small, else in a nameless temporary file.

A cure keeps the suspect's weights so that the last step is exact. Beside the model and the vector they are a third copy
of the whole, of which nothing is read between the first step and the last. A GPU's large ones go to the host's memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

LARGE = 256 * 2**20  # bytes; less is kept in memory


class Aside:
    """Copies of tensors, by name. A temporary folder without room leaves them in memory."""

    def __init__(self, tensors: Mapping[str, Tensor], large: int | None = None) -> None:
        self._kept: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}
        self._file: IO[bytes] | None = None
        is_large = sum(t.nbytes for t in tensors.values()) > (LARGE if large is None else large)
        if is_large and all(t.device.type == "cpu" for t in tensors.values()):
            try:
                self._store(tensors)
                return
            except OSError:
                self._file = None
        self._kept = {name: t.detach().to("cpu" if is_large else t.device, copy=True) for name, t in tensors.items()}

    def fetch(self, name: str, like: Tensor) -> Tensor:
        """The tensor of this name, on the device and of the type and shape of `like`, with which it was put aside.

        Raises:
            OSError: the file cannot be read any more.
        """
        if self._file is None:
            return self._kept[name].to(like.device)
        buffer = bytearray(like.nbytes)
        self._file.seek(self._places[name])
        if self._file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise OSError(f"the temporary file of the weights is too short at {name}")
        if not buffer:
            return like.detach().clone()
        return torch.frombuffer(buffer, dtype=like.dtype).view(like.shape).to(like.device)

    def _store(self, tensors: Mapping[str, Tensor]) -> None:
        self._file = tempfile.TemporaryFile(prefix="unbackdoor-weights-", buffering=0)  # noqa: SIM115 - lives on
        weakref.finalize(self, self._file.close)
        for name, t in tensors.items():
            self._places[name] = self._file.tell()
            left = memoryview(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            while left:
                left = left[self._file.write(left) :]
