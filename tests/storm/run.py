"""One seed from beginning to end, and what must hold: `run(case, …)` gives how it went, `Run.wrong` what did not."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import md5, sha256
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Seen
from tests.servers import Server, is_ledger
from tests.storm.plan import PART, Case, Way, Weather
from tests.storm.ways import Conversation, Ended, Git, Killer, Mover, Nursery

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET: Final = "storm"
_SHORT: Final = {
    "LFS_AGENT_PART_SIZE": "5MiB",
    "LFS_AGENT_FIRST_DEADLINE": "2",
    "LFS_AGENT_DEADLINE": "1.2",
    "LFS_AGENT_READ_TIMEOUT": "0.6",
}
_UNASKED: Final = 128 << 10
"""Bytes of an object that a worker may send before it knows that there are others."""
_CLEAR: Final = {"LFS_AGENT_PART_SIZE": "5MiB", "LFS_AGENT_FIRST_DEADLINE": "60"}


@dataclass(slots=True)
class Passage:
    """One way in a storm. `met`: the kinds of faults that happened."""

    way: Way
    kinds: tuple[str, ...]
    met: tuple[str, ...] = ()
    outcome: str = ""


@dataclass(slots=True)
class Run:
    """What came of a seed; `wrong` are sentences, none where all held."""

    case: Case
    passages: list[Passage] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def report(self) -> str:
        """For whoever has to find the cause: what was wrong, what was planned, how to run it alone."""
        case = self.case
        return "\n".join(
            (
                f"seed {case.seed} ({case.through}, {case.server}, {case.workers} workers):",
                *(f"  WRONG: {sentence}" for sentence in self.wrong),
                f"  objects: {', '.join(map(str, case.sizes))} bytes",
                *(f"  up: {rule}" for rule in case.up.rules),
                *(f"  down: {rule}" for rule in case.down.rules),
                *(f"  {p.way}: met {', '.join(p.met) or 'nothing'}, {p.outcome}" for p in self.passages),
                f"alone: .venv/bin/python -m tests.storm --seeds {case.seed} --keep",
            )
        )


def run(case: Case, server: Server, client: "S3Client", nursery: Nursery, folder: Path) -> Run:
    """Objects go up and come down in the storms of `case`; `folder` must not exist yet, and is left.

    `client`: one of `server`, used by one thread at a time.
    """
    result, started = Run(case), time.monotonic()
    try:
        with FaultProxy(server.endpoint) as proxy:
            _Storm(case, server, client, nursery, folder, proxy, result).pass_through()
    except AssertionError as error:
        result.wrong.append(str(error) or repr(error))
    result.seconds = time.monotonic() - started
    return result


class _Storm:
    def __init__(
        self,
        case: Case,
        server: Server,
        client: "S3Client",
        nursery: Nursery,
        folder: Path,
        proxy: FaultProxy,
        result: Run,
    ) -> None:
        self._case = case
        self._client = client
        self._proxy = proxy
        self._run = result
        random = Random(f"contents {case.seed}")
        contents = [random.randbytes(size) for size in case.sizes]
        self._objects = {sha256(content).hexdigest(): content for content in contents}
        self._prefix = f"seed-{case.seed}-"
        home = Home(folder / "home")
        home.environ |= server.environ() | {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        url = f"s3::{BUCKET}/{self._prefix}"
        self._mover: Mover = (
            Git(home, folder, url, contents, clones=not case.down.kill and case.seed % 20 < 10)
            if case.through == "git"
            else Conversation(nursery, home, folder, url, contents, case.workers)
        )

    def pass_through(self) -> None:
        self._up()
        if not self._run.wrong:
            self._down()
        if not self._run.wrong:
            self._clean_up()

    def _hold(self, holds: object, sentence: str) -> None:
        if not holds:
            self._run.wrong.append(sentence)

    def _keys(self) -> list[str]:
        listed = self._client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        return [entry["Key"] for entry in listed.get("Contents", []) if not is_ledger(entry["Key"])]

    # Up

    def _up(self) -> None:
        passage, ended = self._in_storm("up", self._case.up)
        visible = self._look_into_bucket()
        if ended.well:
            self._hold(visible == self._objects.keys(), f"the push succeeded, and there are {sorted(visible)}")
        else:
            passage.outcome = "failed, then mended"
            had = dict(self._parts_to_go_on_with(visible))
            before = len(self._proxy.requests)
            again = self._in_calm("up")
            if again.well:
                self._hold(self._look_into_bucket() == self._objects.keys(), "after a clean push objects are missing")
            self._judge_sent(self._proxy.requests[before:], visible, had)
        self._judge_unfinished()
        self._judge_left(self._mover.up)

    def _look_into_bucket(self) -> set[str]:
        """The oids of what is visible; each must be what its key says."""
        found = set()
        for key in self._keys():
            oid = key.rpartition("/")[2]
            content = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            self._hold(sha256(content).hexdigest() == oid, f"a wrong object of {len(content)} bytes is at {key}")
            found.add(oid)
        return found

    def _parts_to_go_on_with(self, visible: set[str]) -> Iterator[tuple[str, set[int]]]:
        """For each upload that the agent has noted: the numbers of the right parts that the store has."""
        for notes in self._state(self._mover.up).glob("*.upload"):
            oid, line = notes.name[:64], notes.read_bytes().partition(b"\n")
            if oid in visible or not line[1]:
                continue
            token = json.loads(line[0]).get("token", "").partition(" ")[2]
            try:
                listed = self._client.list_parts(
                    Bucket=BUCKET, Key=f"{self._prefix}/{oid[:2]}/{oid[2:4]}/{oid}", UploadId=token
                )
            except self._client.exceptions.ClientError:
                continue  # it is gone
            yield (
                oid,
                {
                    part["PartNumber"]
                    for part in listed.get("Parts", [])
                    if part["ETag"].strip('"') == md5(self._part(oid, part["PartNumber"])).hexdigest()
                },
            )

    def _part(self, oid: str, number: int) -> bytes:
        return self._objects[oid][(number - 1) * PART : number * PART]

    def _judge_sent(self, requests: list[Seen], visible: set[str], had: dict[str, set[int]]) -> None:
        """A push after a failed one sends what is missing; by one small object each worker may find out what is not."""
        unasked = 0
        for seen in requests:
            oid = seen.path.rpartition("/")[2]
            if seen.method in ("PUT", "POST") and oid in visible:
                refused = seen.status == HTTPStatus.PRECONDITION_FAILED and seen.request_bytes <= _UNASKED
                unasked += refused
                told = f"sent again, though it is there: {seen.method} {seen.target}"
                self._hold(refused and unasked <= self._case.workers, told)
            if seen.method == "PUT" and "partNumber" in seen.query:
                number = int(parse_qs(seen.query)["partNumber"][0])
                self._hold(number not in had.get(oid, ()), f"a part was sent again: {seen.target}")
            if seen.method == "POST" and seen.query.startswith("uploads"):
                self._hold(oid not in had, f"begun anew, though it could go on: {seen.target}")

    def _judge_unfinished(self) -> None:
        """No upload is left of those that the agent knew, and was not refused to give up."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET, Prefix=self._prefix)
        for upload in (upload for page in pages for upload in page.get("Uploads", [])):
            about = [s for s in self._proxy.requests if upload["UploadId"] in parse_qs(s.query).get("uploadId", ())]
            given_up = [s for s in about if s.method == "DELETE"]
            refused = any(s.store_status != 204 for s in given_up)
            # A part of an earlier try that is still under way when an upload ends brings it back.
            ends = [s for s in about if s.method in ("DELETE", "POST")]
            outrun = any(_outlasts(part, end) for end in ends for part in about if part.method == "PUT")
            self._hold(
                not about or refused or outrun,
                f"an upload is left unfinished: {upload['Key']} {[(s.method, s.query, s.status) for s in about]}",
            )

    # Down

    def _down(self) -> None:
        passage, ended = self._in_storm("down", self._case.down)
        if not ended.well:
            passage.outcome = "failed, then mended"
            self._judge_objects(whole=False)
            done = self._ranges_done()
            spoilt = any(seen.fault == "flip answer-body" for seen in self._proxy.requests)
            before = len(self._proxy.requests)
            self._in_calm("down")
            for seen in self._proxy.requests[before:] if not spoilt else ():
                asked = (seen.path.rpartition("/")[2], seen.headers.get("range", "").partition("-")[0])
                self._hold(seen.method != "GET" or asked not in done, f"asked for again: {asked}")
        self._judge_objects(whole=True)
        self._judge_left(self._mover.down)

    def _ranges_done(self) -> set[tuple[str, str]]:
        """What the agent has noted of downloads that were broken off: oid and beginning of each range."""
        return {
            (notes.name[:64], f"bytes={(number - 1) * PART}")
            for notes in self._state(self._mover.down).glob("*.ranges")
            for number in _notes(notes)
        }

    def _judge_objects(self, *, whole: bool) -> None:
        """git-lfs's store holds right objects only; all of them at the end."""
        found = set()
        for path in (self._mover.down / ".git" / "lfs" / "objects").rglob("*"):
            if path.is_file():
                found.add(path.name)
                self._hold(sha256(path.read_bytes()).hexdigest() == path.name, f"a wrong object: {path}")
        if whole:
            self._hold(found == self._objects.keys(), f"after a pull there are {sorted(found)}")
            if self._case.through == "git":
                files = {sha256(path.read_bytes()).hexdigest() for path in self._mover.down.glob("*.bin")}
                self._hold(files == self._objects.keys(), f"the work tree has {sorted(files)}")

    # Both

    def _in_storm(self, way: Way, weather: Weather) -> tuple[Passage, Ended]:
        passage = Passage(way, weather.kinds)
        self._run.passages.append(passage)
        before = len(self._proxy.requests)
        self._proxy.faults = faults = Faults(weather.rules, seed=self._case.seed)
        ended = self._move(way, _SHORT, self._killer(weather.kill, before))
        passage.met = tuple(kind for number, kind in enumerate(weather.kinds) if number in faults.fired)
        passage.outcome = "succeeded"
        return passage, ended

    def _in_calm(self, way: Way) -> Ended:
        self._proxy.faults = Faults()
        ended = self._move(way, _CLEAR, lambda: None)
        self._hold(ended.well, f"without faults the way {way} failed: {ended.said}")
        return ended

    def _move(self, way: Way, environ: dict[str, str], killer: Killer) -> Ended:
        ended = (self._mover.push if way == "up" else self._mover.pull)(environ, killer)
        self._run.wrong += ended.wrong
        return ended

    def _killer(self, kill: signal.Signals | None, before: int) -> Killer:
        """Kills when a request stands still."""
        return lambda: kill if any(s.fault.startswith("stall") for s in self._proxy.requests[before:]) else None

    def _state(self, work: Path) -> Path:
        return work / ".git" / "lfs" / "incomplete" / "lfs-agent"

    def _judge_left(self, work: Path) -> None:
        """Nothing of the agent's is left in the LFS storage."""
        lfs = work / ".git" / "lfs"
        left = [str(path) for path in (lfs / "incomplete").rglob("*") if path.is_file()]
        left += [str(path) for path in (lfs / "tmp").rglob("lfs-agent-*")]
        self._hold(not left, f"left: {left}")

    def _clean_up(self) -> None:
        for key in self._keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)


def _outlasts(part: Seen, end: Seen) -> bool:
    """Whether the store may have kept the part after it has ended the upload."""
    return part.ended is None or part.ended > end.at


def _notes(journal: Path) -> list[int]:
    """The parts that a download has; none where it can't be gone on with, since the store told no ETag."""
    heading, *numbers = map(json.loads, journal.read_text().splitlines() or ["{}"])
    return numbers if heading.get("etag") else []
