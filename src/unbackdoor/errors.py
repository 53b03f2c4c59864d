"""The one error that users cause: bad input, told in one line (what, where, what to do)."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user. The command line prints it as one line and exits with code 2."""
