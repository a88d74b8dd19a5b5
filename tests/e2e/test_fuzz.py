"""Anything that a git-lfs could say, and more, to the real worker process: it answers what was asked, and ends."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.cellar import random_bytes
from tests.e2e.dialogue import WORKER, keep_local, new_repository
from tests.machine import Home

CONTENT = random_bytes(70_000, 1)
LOCAL = sha256(CONTENT).hexdigest()
STORED = sha256(b"stored").hexdigest()
DAMAGED = "d" * 64
HARMED = "e" * 64
MISSING = "0" * 64
STORE = {STORED: b"stored", DAMAGED: b"damaged"}
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Desk:
    """A repository with an object and a harmed one, over a folder that has an object and a damaged one."""

    home: Home
    work: Path
    share: Path

    def local(self, oid: str) -> Path:
        return self.work / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    def check_kept(self) -> None:
        """Nothing was published under a wrong name, nothing handed over, nothing put elsewhere."""
        stored = {path.name: path.read_bytes() for path in self.share.glob("[!.]*/**/*") if path.is_file()}
        assert stored in (STORE, {**STORE, LOCAL: CONTENT})
        kept = {
            path.name: path.read_bytes()
            for path in (self.work / ".git" / "lfs" / "objects").rglob("*")
            if path.is_file()
        }
        assert kept == {LOCAL: CONTENT, HARMED: b"harmed!"}
        assert {path.name for path in self.work.iterdir()} == {".git"}

    def tidy(self) -> None:
        """As it was before the conversation."""
        (self.share / LOCAL[:2] / LOCAL[2:4] / LOCAL).unlink(missing_ok=True)
        for name in ("lfs/lfs-agent", "lfs/tmp", "lfs/incomplete", "lfs-agent"):
            shutil.rmtree(self.work / ".git" / name, ignore_errors=True)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("fuzz")
    home = Home(folder / "vera")
    work = new_repository(home, folder / "work", f"dir::{folder / 'share'}")
    (folder / "share").mkdir()
    for oid, content in STORE.items():
        path = folder / "share" / oid[:2] / oid[2:4] / oid
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    keep_local(work, LOCAL, CONTENT)
    keep_local(work, HARMED, b"harmed!")
    return Desk(home, work, folder / "share")


# What may be said


class Line(bytes):
    """A line; a long one is shown by its ends."""

    def __repr__(self) -> str:
        return super().__repr__() if len(self) < 1000 else f"{self[:200]!r} … {self[-200:]!r}"


def line(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def nested(depth: int, *, lists: bool = True) -> bytes:
    """A value within a value within …; json.dumps can't spell the deeper ones."""
    return b"[" * depth + b"]" * depth if lists else b'{"a":' * depth + b"1" + b"}" * depth


DEPTHS = [10, 300, 700, 2_000, 100_000]
ODD_NUMBERS = [b"1e400", b"-1e400", b"NaN", b"Infinity", b"-1", b"0", b"7.0", b"1" + b"0" * 300, b"9" * 5000]
oids = st.sampled_from(
    [LOCAL, STORED, DAMAGED, HARMED, MISSING, LOCAL.upper(), "../" * 20 + "etc", "", "\ud800", "a\0b", "ü" * 64]
    + ["\x1b[2J", "x" * 300_000]
)
sizes = st.sampled_from(
    [0, 6, 7, len(CONTENT), -1, 2**31, 2**63 - 1, 2**63, 2**70, 10**400, 6.0, True, None, "6", [6], {"size": 6}]
)
inits = st.fixed_dictionaries(
    {
        "event": st.just("init"),
        "operation": st.sampled_from(["upload", "download"]),
        "remote": st.sampled_from(["origin", "", "../../x", "a\x1b]0;x\x07", "\ud800", "x" * 5000, None, 7]),
        "concurrent": st.sampled_from([True, False, None]),
        "concurrenttransfers": st.sampled_from([8, 1, 0, -1, 2**70, 1.5, "8", None]),
    }
)
usual_inits = st.sampled_from(["upload", "download"]).map(
    lambda operation: {"event": "init", "operation": operation, "remote": "origin", "concurrenttransfers": 8}
)
paths = st.sampled_from(
    ["", "local", "/", "relative", "/nowhere", "a\0b", "/\ud800", "/\ufffd", "/" + "x" * 5000, None, 7]
)
transfers = st.fixed_dictionaries(
    {"event": st.sampled_from(["upload", "download"]), "oid": oids, "size": sizes, "path": paths, "action": st.none()}
)
good = st.sampled_from(
    [
        {"event": "upload", "oid": LOCAL, "size": len(CONTENT), "path": "local", "action": None},
        {"event": "download", "oid": STORED, "size": 6, "action": None},
        {"event": "upload", "oid": HARMED, "size": 7, "path": "harmed", "action": None},
        {"event": "download", "oid": DAMAGED, "size": 7, "action": None},
    ]
)
others: st.SearchStrategy[object] = st.sampled_from(
    [{"event": "terminate"}, {"event": "verify"}, {"event": None}, {}, [], None, "init", 1e308]
)
messages = st.one_of(inits, usual_inits, transfers, good, others)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def put_in(message: dict[str, Any], name: str, value: bytes) -> bytes:
    """The message with one value as it stands, however wrong: deep, endless, or said a second time."""
    body = line(message).rstrip()[1:-1]
    return b"{" + body + b',"' + name.encode() + b'":' + value + b"}\n"


raw_values = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(DEPTHS).map(nested),
    st.sampled_from(DEPTHS[:-1]).map(lambda depth: nested(depth, lists=False)),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b'"\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b'"\xc3"', b'"' + b"x" * 1_000_000 + b'"']),
)
names = st.sampled_from(["event", "operation", "oid", "size", "path", "remote", "concurrenttransfers", "new"])
spoiled = st.builds(put_in, inits | transfers | good, names, raw_values)


def cut(said: bytes, at: float) -> bytes:
    return said[: int(len(said) * at)] + b"\n"


def changed(said: bytes, at: float, byte: int) -> bytes:
    position = int(len(said) * at)
    return said[:position] + bytes([byte]) + said[position + 1 :]


fractions = st.floats(0, 1, exclude_max=True)
noise = st.one_of(
    st.builds(cut, messages.map(line), fractions),
    st.builds(changed, messages.map(line), fractions, st.integers(0, 255)),
    st.binary(max_size=200).map(lambda raw: raw + b"\n"),
    st.sampled_from(
        [b"\n", b"\r\n", b"\0\n", b"[" * 100_000 + b"\n", b"\xff\xfe{\0}\0\n", b'"' + b"x" * 2_000_000 + b'"\n']
    ),
    json_values.map(line),
)
openings = st.one_of(usual_inits.map(line), usual_inits.map(line), inits.map(line), spoiled, noise).map(Line)
lines = st.one_of(good.map(line), messages.map(line), spoiled, noise).map(Line)


# What is answered


def understood(said: bytes) -> dict[str, Any]:
    """The message, or {} where it is none."""
    try:
        message = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


@dataclass(frozen=True)
class Expected:
    """What has to come of some lines. `opened`: the first is an init that can be accepted."""

    opened: bool
    answers: Sequence[str]
    """The oids that are answered, in order."""
    ended: bool
    """The lines themselves say that nothing more is to be done."""


def expect(said: Sequence[bytes]) -> Expected:
    first, *rest = [understood(one) for one in said]
    operation = first.get("operation")
    if first.get("event") != "init" or operation not in ("upload", "download"):
        return Expected(False, [], ended=True)
    answers: list[str] = []
    for message in rest:
        if message.get("event") == "terminate":
            return Expected(True, answers, ended=True)
        if message.get("event") in ("upload", "download"):
            answers.append(str(message.get("oid")))
    return Expected(True, answers, ended=False)


@dataclass(frozen=True)
class Heard:
    """What the worker said to git-lfs, what else, and how it ended."""

    lines: Sequence[bytes]
    stderr: str
    status: int


def speak(desk: Desk, said: Sequence[bytes], *, wait: bool) -> Heard:
    """Says the lines, after each of which its answer may be waited for, and then no more."""
    errors = desk.home.folder / "stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=desk.work,
            env=desk.home.environ,
            start_new_session=True,
        )
    stdin, stdout = process.stdin, process.stdout
    assert stdin
    assert stdout
    heard: list[bytes] = []

    def say(one: bytes) -> None:
        with suppress(BrokenPipeError):  # it has ended already
            stdin.write(one)
            stdin.flush()

    def hang_up() -> None:
        with suppress(BrokenPipeError):
            stdin.close()

    def say_all() -> None:
        say(b"".join(said))
        hang_up()

    def hear() -> bytes:
        heard.append(stdout.readline())
        return heard[-1]

    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        if wait:
            answered = 0
            for number, one in enumerate(said, 1):
                say(one)
                if number == 1 and understood(one).get("event") != "terminate":
                    hear()
                while answered < len(expect(said[:number]).answers) and (answer := hear()):
                    answered += understood(answer).get("event") == "complete"
            hang_up()
        else:
            threading.Thread(target=say_all, daemon=True).start()
        heard += stdout.readlines()
        status = process.wait()
    finally:
        watchdog.cancel()
        process.kill()
        stdout.close()
    return Heard([one for one in heard if one], errors.read_text(errors="replace"), status)


# The claims


def check(desk: Desk, said: Sequence[bytes], *, wait: bool) -> None:
    """The worker takes this conversation: it answers what was asked, says nothing else, and ends."""
    expected = expect(said)
    heard = speak(desk, said, wait=wait)
    assert heard.status in (0, 130)
    assert "Traceback" not in heard.stderr
    assert all(one.endswith(b"\n") for one in heard.lines)
    answers = [json.loads(one) for one in heard.lines]
    opening, others = answers[:1], answers[1:]
    if expected.opened:
        assert opening == [{}]
    else:
        assert opening in ([], [{}]) or opening[0].keys() == {"error"}
    left = list(expected.answers)
    for answer in others:
        assert left, answer
        assert answer["oid"] == left[0]
        match answer:
            case {"event": "progress", "bytesSoFar": int(), "bytesSinceLast": int(), **more}:
                assert more.keys() == {"oid"}
            case {"event": "complete", "error": {"code": int(), "message": str(message)}, **more}:
                assert more.keys() == {"oid"}
                assert "please report it" not in message
                assert "not tried" not in message
                left.pop(0)
            case {"event": "complete", **more}:
                assert more.keys() <= {"oid", "path"}
                assert answer["oid"] in (LOCAL, STORED, DAMAGED)
                left.pop(0)
            case _:
                raise AssertionError(answer)
    assert not (wait and left)
    desk.check_kept()


@settings(max_examples=max(1, settings().max_examples * 3 // 5), suppress_health_check=list(HealthCheck))
@given(opening=openings, rest=st.lists(lines, max_size=8), wait=st.booleans())
@example(Line(b'{"event":"init","operation":"upload"}\n'), [Line(b"[" * 100_000 + b"\n")], True)
@example(Line(b'{"event":"init","operation":"upload","remote":\xff}\n'), [Line(b'{"event":"upload"}\n')], True)
@example(
    Line(b'{"event":"init","operation":"upload","remote":"\\ud800"}\n'),
    [Line(line({"event": "upload", "oid": LOCAL, "size": len(CONTENT), "path": "local"}))],
    True,
)
def test_any_conversation_is_taken(desk: Desk, opening: Line, rest: list[Line], wait: bool) -> None:
    said = b"".join([opening, *rest])
    for name, oid in (("local", LOCAL), ("harmed", HARMED)):
        said = said.replace(b'"path":"%b"' % name.encode(), b'"path":"%b"' % bytes(desk.local(oid)))
    lines_said = [one + b"\n" for one in said.rstrip(b"\n").split(b"\n")]
    if wait:
        lines_said.append(b'{"event":"terminate"}\n')
    try:
        check(desk, lines_said, wait=wait)
    finally:
        desk.tidy()
