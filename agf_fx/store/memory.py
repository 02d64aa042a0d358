"""What was used last, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from agf_fx.store.locks import Lock

V = TypeVar("V")


class Recent(Generic[V]):
    """The values used last, by key; the least recently used one goes when there are too many.

    One thread at a time makes the value of a key; the others wait for it. Different keys do not wait for each other.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], V], found: Callable[[], None] = lambda: None) -> V:
        """The value of ``key``, made if it is not there; ``found`` is called if it is."""
        value = self.peek(key)
        if value is not None:
            found()
            return value
        with self._lock:
            making = self._making.setdefault(key, Lock())
        try:
            with making:
                value = self.peek(key)
                if value is None:
                    value = make()
                    self.put(key, value)
                else:
                    found()
        finally:
            with self._lock:
                self._making.pop(key, None)
        return value

    def peek(self, key: Hashable) -> V | None:
        """The value of ``key`` if it is there; it counts as used."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forget the value of a key."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._values.clear()

    def items(self) -> list[tuple[Hashable, V]]:
        """Keys and values, least recently used first."""
        with self._lock:
            return list(self._values.items())

    def __len__(self) -> int:
        return len(self._values)


ARCHITECTURES: Recent[Any] = Recent(32)  # canonical graphs with their digests, by the digest of their trace
PROGRAMS: Recent[Any] = Recent(32)  # programs, by all that they depend on
