"""Ports that nobody answers."""

import socket
from typing import Self


class BlackHole:
    """A port that takes connections and never says a word; with `accept=False` one that refuses them."""

    def __init__(self, *, accept: bool = True) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        if accept:
            self._socket.listen(4096)  # the kernel shakes hands for the queue; nobody ever takes from it
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
