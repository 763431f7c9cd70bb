"""`InputError`: what every package raises when a user's input cannot be used.

It stands in the innermost package so that all can raise it; the command line turns it into one
sentence and exit code 2. Anything else that is raised is our fault and shows as such.
"""

from __future__ import annotations


class InputError(ValueError):
    """A user's mistake. The message says what is wrong, where, what was found and the way out."""
