"""`Hub`: one process for the small objects of several workers, whose conversations take turns."""

import math
import os
import sys
import threading
import time
from _socket import SHUT_RD
from contextlib import suppress
from functools import partial
from resource import RLIMIT_NOFILE, getrlimit
from typing import TYPE_CHECKING, Any, Final

from lfs_agent.errors import StoppedError
from lfs_agent.protocol import Request
from lfs_agent.turns import Flag, Turns
from lfs_agent.wire import Wire
from lfs_agent.zygote import Asked, Forked, hand_over, receive

if TYPE_CHECKING:
    from _socket import socket

    from lfs_agent.agent import Worker

_TICK_S: Final = 0.1
_GRACE_S: Final = 1.0
"""How long what is going on may take to end when the process is told to."""


class Hub:
    """What the process does that was `forked` for that. `worker`: a prepared one, others of which do the work.

    `stop`: all end as soon as they can.
    """

    def __init__(self, worker: "Worker", forked: Forked, stop: threading.Event) -> None:
        assert forked.zygote
        self._worker = worker
        self._zygote: socket = forked.zygote
        self._first = forked.asked
        self._stop = stop
        self._stopped_at = math.inf
        self._most = getrlimit(RLIMIT_NOFILE)[0] // 3
        """The highest descriptor of who comes; what they do needs as many again."""
        self._under_way: list[_Conversation] = []

    def run(self) -> None:
        """Until all conversations have ended that have come by then."""
        with Turns() as turns:
            self._turns = turns
            turns.start(self._listen)
            self._adopt(self._first)
            turns.run_while(self._goes_on, self._tick, _TICK_S)

    def _goes_on(self) -> bool:
        return bool(self._under_way) and time.monotonic() < self._stopped_at + _GRACE_S

    def _listen(self) -> None:
        while self._turns.until_ready([self._zygote.fileno()], [], math.inf):
            if (asked := receive(self._zygote)) is None:  # the first worker has ended, or no descriptor is left
                break
            if self._stop.is_set():
                asked.close()
            else:
                self._adopt(asked)
            if asked.errors > self._most:
                break
        with suppress(OSError):
            self._zygote.shutdown(SHUT_RD)  # who comes now gets another hub
            while self._zygote.recv(1):  # who has come hears nothing, and loads everything itself
                pass

    def _adopt(self, asked: Asked) -> None:
        conversation = _Conversation(self._worker, asked)
        self._under_way.append(conversation)
        conversation.task = self._turns.start(lambda: self._converse(conversation))
        if len(self._under_way) == 1:
            self._speak_by(conversation)

    def _converse(self, conversation: "_Conversation") -> None:
        try:
            conversation.go_on(self._zygote)
        finally:
            self._under_way.remove(conversation)
            if self._under_way:
                self._speak_by(self._under_way[0])

    def _speak_by(self, conversation: "_Conversation") -> None:
        """What is for a terminal goes to that of one who is still there: git-lfs waits until nobody holds it."""
        for fd in (1, 2):
            os.dup2(conversation.asked.errors, fd)

    def _tick(self) -> None:
        if self._stop.is_set():
            self._stopped_at = min(self._stopped_at, time.monotonic())
            self._worker.leave()
        for conversation in list(self._under_way):
            if self._stop.is_set() or conversation.is_left:
                conversation.stop.set()
            if conversation.stop.is_set():
                self._turns.throw(conversation.task, StoppedError("stopped"))
            else:
                conversation.worker.tick()


class _Conversation:
    """What one git-lfs worker asks for and hears."""

    def __init__(self, worker: "Worker", asked: Asked) -> None:
        self.asked = asked
        self.stop = Flag()
        self.worker = worker.another(self._write, self.stop, asked.started)
        self._wire = Wire(asked.requests, asked.request)
        self._has_left = False
        self.task: Any = None

    @property
    def is_left(self) -> bool:
        return self.asked.is_left or self._wire.broke_off()

    def go_on(self, zygote: "socket") -> None:
        """To its end, or until it needs a process of its own, which goes on with it."""
        try:
            self.asked.take()
            self.worker.serve(self._wire, partial(self._leaves, zygote))
        except (StoppedError, OSError):  # nobody waits for it
            self.stop.set()
        except Exception as fault:  # of ours: git-lfs hears the end of this one, and the others go on
            self.stop.set()
            sys.excepthook(type(fault), fault, fault.__traceback__)
        with suppress(StoppedError):
            self.worker.end()
        if not self._has_left:
            self.asked.tell(130 if self.stop.is_set() else 0)
            self.asked.close()

    def _leaves(self, zygote: "socket", request: Request, line: bytes) -> bool:
        if self.worker.is_for_hub(request) or self._wire.is_ahead:
            return False
        self._has_left = hand_over(zygote, self.asked._replace(request=line, taken=True)) or self.asked.give_back(line)
        return self._has_left

    def _write(self, line: bytes) -> None:
        try:
            os.write(self.asked.answers, line)
        except OSError:  # git-lfs is gone
            self.stop.set()
