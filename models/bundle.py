"""The files of an emulator's bundle, read and checked: by `emulator` with torch, `arrays` without.

No pickle is ever loaded. What the files say is compared with the sha256 in the card, which tells
damage; who can write a bundle can write that, too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.errors import InputError

CARD, WEIGHTS = "emulator.json", "weights.safetensors"
FORMAT, FORMAT_OF_SEVERAL = 1, 2
"""Version of the bundle of one flow, and of an ensemble."""
MEMBERS = "members"
"""Key of an ensemble's architecture that lists those of its flows; their weights begin with it."""


class EmulatorError(InputError):
    """A bundle or a call that cannot be used. The message is one sentence with the remedy."""


def read_card(folder: Path) -> dict[str, Any]:
    """The contents of `emulator.json`.

    Raises:
        EmulatorError: If the folder is no bundle, or is of a newer format.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version, files = card["format"], card["files"]
        whole = isinstance(version, int) and all(_is_listed(*each) for each in files.items())
    except FileNotFoundError:
        raise EmulatorError(
            f"{folder} is not an emulator (it has no {CARD}): make one with `hpo export`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmulatorError(f"{path} cannot be read: export the emulator again") from error
    if not whole:
        raise EmulatorError(f"{path} cannot be read: export the emulator again")
    if version not in (FORMAT, FORMAT_OF_SEVERAL):
        raise EmulatorError(
            f"{path} has format {version}, this version reads up to {FORMAT_OF_SEVERAL}: "
            "upgrade hpo-flows"
        )
    if WEIGHTS not in files:
        raise EmulatorError(f"{path} lists no {WEIGHTS}: export the emulator again")
    return dict(card)


def read_file(folder: Path, name: str, card: dict[str, Any]) -> bytes:
    """A file of the bundle, as it was exported.

    Raises:
        EmulatorError: If it is missing or changed.
    """
    path = folder / name
    if not path.is_file():
        raise EmulatorError(f"{path} is missing: export or copy the emulator again")
    content = path.read_bytes()
    if sha256(content) != card["files"][name]:
        raise EmulatorError(
            f"{path} is not the file that was exported (its sha256 differs from {CARD}): "
            "export or copy the emulator again"
        )
    return content


def sha256(content: bytes) -> str:
    """As the card lists it."""
    return hashlib.sha256(content).hexdigest()


def misfit(folder: Path, error: Exception) -> EmulatorError:
    """What to raise where the weights are not of the flow that the card describes."""
    return EmulatorError(
        f"{folder / WEIGHTS} does not fit {CARD} ({error}): export the emulator again"
    )


def _is_listed(name: object, digest: object) -> bool:
    """Whether this can be a file of the bundle: a name without a path, and a text."""
    return isinstance(digest, str) and isinstance(name, str) and Path(name).name == name
