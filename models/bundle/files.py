"""The files of an emulator's bundle, read and checked: by `emulator` with torch, `arrays` without.

No pickle is ever loaded. The sha256 of each file is compared with the card, which finds damage.
Whoever can write a bundle can write its card, too, so the contents are not trusted: files are read
inside the folder alone and up to a size, and `layout` compares the weights' shapes with the
description before any memory is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from data_prep.errors import InputError
from data_prep.untrusted import UntrustedError, contents, opened, parse

CARD, WEIGHTS = "emulator.json", "weights.safetensors"
FORMAT, FORMAT_OF_SEVERAL, FORMAT_OF_SUPPORTS, FORMAT_OF_MIXTURES = 1, 2, 3, 4
"""Version of the bundle of one flow, of an ensemble, of either with columns that have bounds, atoms
or categories, and of any whose base is a mixture."""
LONGEST_FILE_NAME = 255
LARGEST_CARD = 16 * 2**20
"""Bytes of the largest card that is read."""
LARGEST_FILE = 2 * 2**30
"""Bytes of the largest file of a bundle: that of an ONNX graph."""

Read = TypeVar("Read")


class EmulatorError(InputError):
    """A bundle or a call that cannot be used. The message is one sentence with the remedy."""


def read(folder: Path, *, whole: bool) -> tuple[dict[str, Any], bytes]:
    """The card and the weights: of one export, also while another one replaces it.

    With `whole`, every other file is compared with the card, too.

    Raises:
        EmulatorError: As `read_card`; or if a file is missing, changed or cannot be read.
    """
    while True:
        card = read_card(folder)
        try:
            for name in card["files"]:
                if whole and name != WEIGHTS:
                    _compare(folder, name, card, _of(folder, name, _digest))
            content = _of(folder, WEIGHTS, lambda path: contents(path, LARGEST_FILE))
            _compare(folder, WEIGHTS, card, sha256(content))
            return card, content
        except EmulatorError:
            if read_card(folder) == card:
                raise


def read_card(folder: Path) -> dict[str, Any]:
    """The contents of `emulator.json`.

    Raises:
        EmulatorError: If the folder is no bundle, or is of a newer format.
    """
    path = folder / CARD
    if not path.exists():
        raise EmulatorError(
            f"{folder} is not an emulator (it has no {CARD}): make one with `hpo export`"
        )
    text = _of(folder, CARD, lambda path: contents(path, LARGEST_CARD))
    try:
        card = parse(text)
        version, files = card["format"], card["files"]
        # A file of the bundle has a name without a path, and a digest.
        whole = isinstance(version, int) and all(
            isinstance(digest, str)
            and Path(name).name == name
            and len(name) <= LONGEST_FILE_NAME
            and name.isprintable()
            for name, digest in files.items()
        )
        parts = ("architecture", "metrics", "provenance", "efficiency", "reliability")
        if not (whole and all(isinstance(card.get(part, {}), dict) for part in parts)):
            raise ValueError("a value is of another type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmulatorError(f"{path} cannot be read: export the emulator again") from error
    if not FORMAT <= version <= FORMAT_OF_MIXTURES:
        raise EmulatorError(
            f"{path} has format {version}, this version reads up to {FORMAT_OF_MIXTURES}: "
            "upgrade hpo-flows"
        )
    if WEIGHTS not in files:
        raise EmulatorError(f"{path} lists no {WEIGHTS}: export the emulator again")
    return dict(card)


def sha256(content: bytes) -> str:
    """As the card lists it."""
    return hashlib.sha256(content).hexdigest()


def misfit(folder: Path, error: Exception) -> EmulatorError:
    """The error for weights that are not of the flow that the card describes."""
    return EmulatorError(
        f"{folder / WEIGHTS} does not fit {CARD} ({error}): export the emulator again"
    )


def _of(folder: Path, name: str, read: Callable[[Path], Read]) -> Read:
    """The result of `read` on a file that lies in the folder itself, not behind a link."""
    path = folder / name
    try:
        if path.resolve().parent != folder.resolve():
            raise EmulatorError(f"{path} is a link that leads elsewhere: put the file in its place")
        return read(path)
    except FileNotFoundError:
        raise EmulatorError(f"{path} is missing: export or copy the emulator again") from None
    except UntrustedError as error:
        raise EmulatorError(f"{path} {error}: export or copy the emulator again") from error
    except (OSError, ValueError, RuntimeError) as error:  # a name no file can have, a loop of links
        if isinstance(error, EmulatorError):
            raise
        raise EmulatorError(f"{path} cannot be read ({error}): copy the emulator again") from error


def _digest(path: Path) -> str:
    with opened(path, LARGEST_FILE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(folder: Path, name: str, card: dict[str, Any], found: str) -> None:
    if found != card["files"][name]:
        raise EmulatorError(
            f"{folder / name} is not the file that was exported (its sha256 differs from {CARD}): "
            "export or copy the emulator again"
        )
