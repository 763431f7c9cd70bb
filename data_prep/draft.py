"""A file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A path beside `path` to be written to; it takes the place of `path` when the body ends well.

    A reader finds the old file or the new one, after a crash of the machine too. Folders above are
    made. If the body raises, the old file stays and nothing is left of the draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its own for each process: a worker given up for lost may come back and write too.
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # the name must never point at bytes that a crash can lose
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
