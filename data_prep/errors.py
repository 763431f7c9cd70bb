"""`InputError`: what every package raises when a user's input cannot be used.

It stands in the innermost package so that all can raise it; the command line turns it into one
sentence and exit code 2. Anything else that is raised is our fault and shows as such.
"""

from __future__ import annotations

import errno

REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "have it mounted for writing",
    errno.EIO: "have the disk looked at",
    errno.ESTALE: "have it mounted again",
    errno.ENODEV: "have it mounted again",
}
"""What to do about the faults of a disk, which are nobody's input and no program's mistake."""


class InputError(ValueError):
    """A user's mistake. The message says what is wrong, where, what was found and the way out."""
