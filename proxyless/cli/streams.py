"""Standard streams as commands may use them, whatever the shell made of them."""

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

# What writing fails with where nobody's program is wrong: the disk, or what it goes to, takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def prepare() -> None:
    """A stream that was closed reads and writes nothing; a character that the locale lacks is written escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  until the end
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def no_text(arguments: Sequence[str]) -> str:
    """The first of the arguments that is none in the locale's encoding, "" if all are."""
    return next((one for one in arguments if any("\ud800" <= character <= "\udfff" for character in one)), "")


def drop_output() -> None:
    """What is still buffered must not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
