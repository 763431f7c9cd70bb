"""`InputError`: what every package raises when a user's input cannot be used.

It stands in the innermost package so that all can raise it; the command line turns it into one
sentence and exit code 2. Anything else that is raised is our fault and shows as such.
"""

from __future__ import annotations

import difflib
import errno
import shlex
from collections.abc import Iterable, Sequence

REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "have it mounted for writing",
    errno.EIO: "have the disk looked at",
    errno.ESTALE: "have it mounted again",
    errno.ENODEV: "have it mounted again",
}
"""The remedy for each fault of a disk, which is nobody's input and no program's mistake."""


class InputError(ValueError):
    """A user's mistake. The message says what is wrong, where, what was found and the way out."""


class DataError(InputError):
    """Data that cannot be used. The message is one sentence: file, column, row, found, remedy."""


def suggestion(name: str, known: Iterable[str], *, otherwise: str = "there are") -> str:
    """The remedy for a name that is not known: the nearest known one, or all of them.

    Args:
        name: The name that was given.
        known: The names that would have been right.
        otherwise: Opens the list where none is near.
    """
    names = sorted(known)
    near = nearest(name, names)
    return f"did you mean {near!r}?" if near else f"{otherwise} {', '.join(names) or 'none'}"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that differs in case alone, else the closest in spelling, if one is close."""
    near = [other for other in known if other.casefold() == name.casefold()]
    near = near or difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None


def quoted(text: str) -> str:
    """A text as a shell takes it, so that a remedy can be typed."""
    return shlex.quote(text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of a database driver's own where there is one."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
