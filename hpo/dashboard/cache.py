"""A small cache for several threads: the values that were asked for last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """At most so many values; one is made at a time, and a value that is kept never waits for it.

    `functools.lru_cache` would let two threads make one value twice.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._looking, self._making = Lock(), Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of that key, made when it is first asked for. It must not be None."""
        found = self._find(key)
        if found is not None:
            return found
        with self._making:
            found = self._find(key)  # another thread may have made it meanwhile
            if found is None:
                found = make()
                with self._looking:
                    self._kept[key] = found
                    while len(self._kept) > self._most:
                        self._kept.popitem(last=False)
            return found

    def _find(self, key: Key) -> Value | None:
        with self._looking:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)
