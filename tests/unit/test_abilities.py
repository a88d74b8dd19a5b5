"""What a store can do is remembered per endpoint, and never believed where it makes no sense."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfs_agent.store.abilities import Abilities, AbilitiesFile, obeys_conditions

AMAZON = Abilities()


def test_a_store_that_nobody_knows_is_taken_for_amazons(tmp_path: Path) -> None:
    assert AbilitiesFile(tmp_path / "stores.json", "http://one").now == AMAZON
    assert AbilitiesFile(None, "http://one").now == AMAZON


def test_what_is_learned_is_known_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "made" / "stores.json"
    AbilitiesFile(path, "http://one").learn(conditional_put=False, multipart_checksum="none")

    assert AbilitiesFile(path, "http://one").now == Abilities(conditional_put=False, multipart_checksum="none")


def test_each_endpoint_is_known_apart(tmp_path: Path) -> None:
    path = tmp_path / "stores.json"
    AbilitiesFile(path, "http://one").learn(conditional_put=False)
    AbilitiesFile(path, "http://two").learn(put_checksum=False)

    assert AbilitiesFile(path, "http://one").now == Abilities(conditional_put=False)
    assert AbilitiesFile(path, "http://two").now == Abilities(put_checksum=False)
    assert AbilitiesFile(path, "http://three").now == AMAZON


def test_without_a_file_it_is_known_until_the_end_of_the_process() -> None:
    known = AbilitiesFile(None, "http://one")
    known.learn(conditional_complete=False)

    assert known.now == Abilities(conditional_complete=False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"http://one": 7}',
        b'{"http://one": {"conditional_put": "no", "put_checksum": 0, "unknown": 1}}',
        b'{"http://one": {"multipart_checksum": "some"}}',
        b'{"http://one": {"multipart_checksum": null}}',
        b'{"http://one": {"__doc__": "a word"}}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_makes_no_sense_is_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stores.json"
    path.write_bytes(content)
    known = AbilitiesFile(path, "http://one")
    assert known.now == AMAZON

    known.learn(conditional_put=False)

    assert AbilitiesFile(path, "http://one").now == Abilities(conditional_put=False)


def test_a_file_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    known = AbilitiesFile(tmp_path / "file" / "stores.json", "http://one")
    known.learn(conditional_put=False)

    assert known.now == Abilities(conditional_put=False)


def test_what_others_have_learned_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "lfs-agent" / "stores.json"
    one, other = AbilitiesFile(path, "http://one"), AbilitiesFile(path, "http://one")
    one.learn(obeyed=True)

    other.learn(put_confirmed=True)

    assert AbilitiesFile(path, "http://one").now == Abilities(obeyed=True, put_confirmed=True)
    assert other.now.obeyed


def test_threads_may_learn_at_once(tmp_path: Path) -> None:
    path = tmp_path / "stores.json"
    known = AbilitiesFile(path, "http://one")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: known.learn(put_confirmed=True), range(50)))

    assert json.loads(path.read_text())["http://one"]["put_confirmed"] is True
    assert [file.name for file in tmp_path.iterdir()] == ["stores.json"]


@pytest.mark.parametrize(
    "endpoint, learned, obeys",
    [
        ("", {}, True),
        ("https://s3.example.org", {}, False),  # nobody has put anything there
        ("https://s3.example.org", {"put_confirmed": True}, False),  # it has taken the condition: who knows for what
        ("https://s3.example.org", {"obeyed": True}, True),
        ("https://s3.example.org", {"obeyed": True, "conditional_put": False}, False),
    ],
)
def test_a_put_is_left_to_stores_that_have_refused_one(
    tmp_path: Path, endpoint: str, learned: dict[str, bool], obeys: bool
) -> None:
    path = tmp_path / "stores.json"
    if learned:
        AbilitiesFile(path, endpoint).learn(**learned)

    assert obeys_conditions(endpoint, path) is obeys
