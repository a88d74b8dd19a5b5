"""What `lfs-agent log` makes of a record."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.commands import log
from lfs_agent.commands.screen import Screen
from lfs_agent.log import Audit, redact

OID_A = "a" * 64
OID_B = "b" * 64
OID_C = "c" * 64


def event(name: str, second: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "at": f"2026-11-21T07:00:{second:02}+00:00",
        "level": "info",
        "event": name,
        "session": "20261121T070000Z-1",
        "operation": "upload",
        "remote": "origin",
        "store": "s3://bucket/prefix",
        **fields,
    }


def summarize(*events: dict[str, Any]) -> log.Summary:
    summary = log.summarize("20261121T070000Z-1", events)
    assert summary
    return summary


def spelled(*events: dict[str, Any], places: log.Places | None = None) -> str:
    return shown(summarize(*events), places or {})


def shown(summary: log.Summary, places: log.Places) -> str:
    """What is printed of it, where standard output is no terminal."""
    with redirect_stdout(StringIO()) as said:
        log.show(Screen(), summary, places)
    return said.getvalue().removesuffix("\n")


PUSH = (
    event("started", workers=8, pid=1),
    event("started", 1, workers=8, pid=2),
    event("uploaded", 1, oid=OID_A, size=3 << 20, bytes=3 << 20, parts=3, proven=True),
    event("skipped", 2, oid=OID_B, size=5, bytes=0, parts=0, proven=False),
    event("retry", 2, what="put", message="503", wait_s=1),
    event("failed", 3, oid=OID_C, code=403, error="DeniedError", message="storing s3://bucket/prefix: 403"),
    event("ended", 4, objects=2, bytes=3 << 20, parts=3, skipped=1, unproven=1, failed=0, retries=1),
    event("ended", 4, objects=0, bytes=0, parts=0, skipped=0, unproven=0, failed=1, retries=0),
)


def test_workers_are_summed_up_to_one_session() -> None:
    assert log.to_json(summarize(*PUSH), {OID_C: ("vit-l/0.2/c.pt", 7)}) | {"started": ""} == {
        "session": "20261121T070000Z-1",
        "operation": "upload",
        "remote": "origin",
        "store": "s3://bucket/prefix",
        "started": "",
        "seconds": 4.0,
        "workers": 2,
        "running": False,
        "objects": 1,
        "replaced": 0,
        "bytes": 3145728,
        "parts": 3,
        "rate": 786432,
        "skipped": 1,
        "unproven": 1,
        "retries": 1,
        "failed": 1,
        "failures": [
            {
                "oid": OID_C,
                "size": 7,
                "path": "vit-l/0.2/c.pt",
                "code": 403,
                "error": "DeniedError",
                "message": "storing s3://bucket/prefix: 403",
            }
        ],
    }


def test_a_person_reads_what_was_sent_and_what_failed() -> None:
    head, *lines = spelled(*PUSH, places={OID_C: ("vit-l/0.2/c.pt", 7)}).split("\n")
    assert head.startswith("push to s3://bucket/prefix, remote origin, 2026-11-2")
    assert head.endswith(", 4.0 s")
    assert lines == [
        "sent\t1 object, 3.0 MiB, 768.0 KiB/s",
        "already there\t1 object, 1 of them unproven",
        "asked again\t1 time",
        "failed\t1 object",
        "",
        "1 object: storing s3://bucket/prefix: 403",
        f"7 bytes\tvit-l/0.2/c.pt\t{OID_C}",
    ]


def test_what_was_replaced_is_told_apart() -> None:
    events = (
        event("started", operation="repair"),
        event("uploaded", 1, operation="repair", oid=OID_A, size=1024, bytes=1024, parts=1, proven=True),
        event("replaced", 2, operation="repair", oid=OID_B, size=1024, bytes=1024, parts=1, proven=True, etag='"old"'),
    )
    assert spelled(*events).split("\n")[1:3] == ["sent\t2 objects, 2.0 KiB, 1.0 KiB/s", "replaced\t1 object of these"]
    assert log.to_json(summarize(*events), {})["replaced"] == 1


@pytest.mark.parametrize("operation, name", [("prune", "pruned"), ("gc", "deleted"), ("uploads", "gave up")])
def test_what_is_deleted_has_no_rate(operation: str, name: str) -> None:
    events = (
        event("started", operation=operation),
        event(name, 2, operation=operation, oid=OID_A, size=2048, bytes=2048),
    )
    assert spelled(*events).split("\n")[1].endswith("\t1 object, 2.0 KiB")
    assert log.to_json(summarize(*events), {})["rate"] == 0


def test_one_cause_is_one_group() -> None:
    text = spelled(
        *(
            event("failed", oid=oid, code=403, message=f"storing s3://b/p/{oid[:2]}/{oid[2:4]}/{oid}: 403")
            for oid in (OID_A, OID_B)
        ),
        event("failed", oid=OID_C, code=32, message="expired"),
    )
    assert "2 objects: storing s3://b/p/OID: 403" in text
    assert "1 object: expired" in text


def test_many_failures_are_counted_not_all_shown() -> None:
    text = spelled(*(event("failed", oid=f"{number:064}", code=32, message="expired") for number in range(1000)))
    assert len(text.split("\n")) < 30
    assert "1,000 objects: expired" in text
    assert "and 980 more" in text


def test_an_object_that_came_at_the_second_try_has_not_failed() -> None:
    summary = summarize(
        event("failed", oid=OID_A, code=2, message="broken off"),
        event("downloaded", 1, oid=OID_A, size=1, bytes=1, parts=1, proven=True),
    )
    assert (summary.objects, list(summary.failures)) == (1, [])


def test_the_first_cause_of_an_object_is_the_one_to_read() -> None:
    summary = summarize(
        event("failed", oid=OID_A, code=32, message="the cause"),
        event("failed", 1, oid=OID_A, code=32, message="not tried"),
    )
    assert [failure.message for failure in summary.failures.values()] == ["the cause"]


def test_a_record_that_grew_too_long_has_the_workers_sums() -> None:
    summary = summarize(
        event("started"),
        event("uploaded", oid=OID_A, size=1, bytes=1, parts=1, proven=True),
        event("ended", 1, objects=30_000, bytes=30_000, parts=29_000, skipped=1000, unproven=10, failed=0, retries=7),
    )
    assert (summary.objects, summary.skipped, summary.unproven) == (29_000, 1000, 10)
    assert (summary.bytes, summary.parts, summary.retries) == (30_000, 29_000, 7)


def test_a_session_that_has_not_ended_says_so() -> None:
    text = spelled(event("started"), event("uploaded", oid=OID_A, size=1, bytes=1, parts=1, proven=True))
    assert "still running, or it was killed" in text


def test_a_half_line_is_no_event(tmp_path: Path) -> None:
    record = tmp_path / "20261121T070000Z-1.jsonl"
    whole = json.dumps(event("started"))
    record.write_text(f"{whole}\nnull\n[1]\n{{}}\nnot json\n\n{whole[:40]}")
    assert [found["event"] for found in log.read(record)] == ["started"]


def test_a_record_that_is_swept_away_meanwhile_is_empty(tmp_path: Path) -> None:
    assert list(log.read(tmp_path / "gone.jsonl")) == []


@pytest.mark.parametrize(
    "text, left",
    [
        ("https://ghp_0123456789@github.com/x", "https://***@github.com/x"),
        (f"https://oauth2:{'0' * 900}@gitlab.com/x", "https://***@gitlab.com/x"),
        ("https://vera:it's@host/x@v1", "https://***@host/x@v1"),
        ("https://vera:p@ss@host/x", "https://***@host/x"),
        ("https://vera:a/b@host/x", "https://***@host/x"),
        ("s3::s3://vera:a/b@bucket/x", "s3::s3://***@bucket/x"),
        ("ssh://git:secret@host/x", "ssh://***@host/x"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("git@host:x", "git@host:x"),
        ("https://host:8443/x@v1", "https://host:8443/x@v1"),
        ('{"a":"https://host:x","b":"vera@host"}', '{"a":"https://host:x","b":"vera@host"}'),
    ],
)
def test_who_logs_in_by_a_url_is_left_out_of_it(text: str, left: str) -> None:
    assert redact(f"see {text}, and go on") == f"see {left}, and go on"


def test_megabytes_without_a_secret_are_looked_through_soon() -> None:
    """By an expression that begins anew at each word it would take hours."""
    for text in ("a." * (1 << 19), "a://" * (1 << 18), "Bearer " * (1 << 17), "x://a:" * (1 << 17)):
        assert redact(text)[:2] == text[:2]


def test_nothing_that_a_terminal_obeys_comes_through() -> None:
    text = spelled(
        event("failed", oid="\x1b[2J", message="bad \x1b]0;title\x07\nnews", store="s3://\x1bc", remote="\x9b1m"),
        places={"\x1b[2J": ("\x1b[31mred.pt", 1)},
    )
    assert all(letter.isprintable() or letter in "\t\n" for letter in text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    record = tmp_path_factory.mktemp("records") / "r.jsonl"
    record.write_bytes(content)
    log.summarize("r", log.read(record))


VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([])
)
FIELDS = ["at", "operation", "remote", "store", "oid", "size", "bytes", "parts", "code", "proven", "objects", "message"]
NAMES = ["started", "ended", "uploaded", "replaced", "skipped", "failed", "retry", "news"]


@given(
    st.lists(
        st.builds(
            lambda n, f: f | {"event": n}, st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), VALUES)
        )
    )
)
def test_any_events_can_be_shown(events: list[dict[str, Any]]) -> None:
    summary = log.summarize("s", events)
    assert (summary is None) == (not events)
    if summary:
        text = shown(summary, {})
        assert all(letter.isprintable() or letter in "\t\n" for letter in text)
        json.dumps(log.to_json(summary, {}))


@pytest.mark.parametrize("level", [None, "info"])
def test_a_worker_loads_no_rich_with_and_without_a_log(level: str | None) -> None:
    """It costs each of eight workers 50 ms, and structlog takes it where it finds it."""
    program = f"""
import sys
import lfs_agent.agent
from lfs_agent.log import Log
Log(None, {level!r}, None).info("ready")
assert not [name for name in sys.modules if name.partition(".")[0] == "rich"]
import rich.console
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ready") == (level is not None)


def test_a_line_that_another_one_is_writing_is_not_taken_for_torn(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    line = json.dumps({"padding": "x" * 6000})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Audit(file).write, [line] * 400))

    assert file.read_text().splitlines() == [line] * 400
