"""`Meter`: how many bytes of one object are done, counted by many threads and read by one."""

import threading


class Meter:
    """Counts each byte once, also where a part is sent twice. Sizes in bytes."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self.size = size
        self.stop = stop
        """Set from outside: the transfer ends as soon as it can."""
        self.moved = 0
        """Bytes that went over the wire, repetitions included."""
        self.parts = 0
        self._lock = threading.Lock()  # of the sums below: parts report from several threads
        self._done: dict[int, int] = {}
        self._total = 0

    @property
    def done(self) -> int:
        """Bytes of the object that are done; never falls."""
        return self._total

    def reached(self, start: int, position: int, moved: int) -> None:
        """The part that begins at `start` has come to `position`; `moved` bytes went over the wire for that."""
        with self._lock:
            before = self._done.get(start, start)
            if position > before:
                self._done[start] = position
                self._total = min(self.size, self._total + position - before)
            self.moved += moved

    def finished(self) -> None:
        """All of the object is done, without another byte."""
        with self._lock:
            self._total = self.size

    def finished_part(self) -> None:
        """One more part is done."""
        with self._lock:
            self.parts += 1
