"""The one error that users cause: bad input, in one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from unbackdoor.base.printable import one_line


class InputError(ValueError):
    """Bad input from the user. The command line prints it as one line and exits with code 2.

    A quotation from a stranger's file may hold line breaks, terminal codes or a million characters; the constructor
    makes the message one printable line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Interrupted(KeyboardInterrupt):
    """The user's interrupt of a run that has kept what it did, so that the same call goes on from there."""


_NO_MEMORY = ("can't allocate memory", "out of memory", "can't start new thread")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was not to be had, on the host or on a device.

    A thread that cannot be started is one whose stack finds no room.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """A stranger's error as part of our one line."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
