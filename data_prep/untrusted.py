"""Files that anyone may have written: read in bounded memory, never waited for, taken as data."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from data_prep.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

LARGEST_JSON = 64 * 2**20
"""Bytes of the largest JSON that is read: that of a run of 100,000 epochs has less than half."""


T = TypeVar("T")
_MAKING = threading.Lock()


class UntrustedError(InputError):
    """A file that is not read. The message is a clause without the file's name."""


@contextmanager
def opened(path: Path, largest: int) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Raises:
        UntrustedError: If it is not a plain file, or larger than `largest` bytes.
        OSError: If it cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe of that name would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError as error:  # no file can have such a name: a NUL, half of a surrogate pair
        raise OSError(errno.EINVAL, f"impossible name ({error})") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError("is not a plain file")
        if status.st_size > largest:
            raise UntrustedError(f"has {status.st_size} bytes, over the limit of {largest}")
        yield file


def contents(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """The bytes of a regular file. Raises as `opened` does."""
    with opened(path, largest) as file:
        # Not `largest`: memory for as much would be taken before anything is read.
        return file.read(os.fstat(file.fileno()).st_size)


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """What reads and checks JSON of this type, made once, on its first use."""
    with _MAKING:  # Python's parser, which reads the docstrings for it, is for one thread at a time
        return cast("TypeAdapter[T]", _adapter(cast("Hashable", kind)))


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # here: a module's types must stay cheap to read

    return TypeAdapter(kind)


def parse(text: bytes | str) -> Any:
    """The value of strict JSON: no NaN, no key twice, and no nesting that a parser cannot follow.

    Raises:
        ValueError: For anything else.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def fault_of(error: ValidationError, kind: str, schema: int = 1, remedy: str = "") -> str:
    """Why a JSON file is not of its kind, such as "a record": a clause without the file's name.

    It tells the first fault that pydantic found. `remedy` ends it, unless the file is of a layout
    newer than `schema`, whose remedy is another.
    """
    fault = error.errors(include_url=False)[0]
    place, found = ".".join(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "json_invalid":
        return f"is not JSON: {fault['ctx']['error']}{remedy}"
    if place == "schema" and isinstance(found, int) and found > schema:
        return (
            f"was written by a newer version (schema {found}, this one reads up to {schema}): "
            "upgrade hpo-flows to read it"
        )
    return f"is not {kind}: {place}{': ' if place else ''}{fault['msg']}{remedy}"


def finite(value: Any) -> Any:
    """The value with None for every float in it that strict JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_finite(value: object) -> bool:
    """Whether a value that was parsed is a number, and a float can hold it."""
    # Not math.isfinite alone: of an integer beyond all floats it raises.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found
