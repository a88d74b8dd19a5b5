"""Which modes files and folders get, whatever the umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lfs_agent.modes import UMASK, Modes


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    "modes, file, folder",
    [(UMASK, 0o600, 0o700), (Modes(0o660), 0o660, 0o770), (Modes(0o664), 0o664, 0o775), (Modes(0o640), 0o640, 0o750)],
)
def test_what_is_made_has_the_mode(tmp_path: Path, modes: Modes, file: int, folder: int) -> None:
    os.close(modes.open(tmp_path / "a" / "b" / "file", os.O_RDWR))

    assert mode(tmp_path / "a" / "b" / "file") == file
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == [folder, folder]


def test_the_group_of_a_shared_folder_is_handed_down_and_its_own_mode_is_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2755)

    Modes(0o660).make(shared / "lfs")

    assert (mode(shared), mode(shared / "lfs")) == (0o2755, 0o2770)


def test_what_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(OSError, match="file"):
        UMASK.replace(tmp_path / "file", "text")
    UMASK.replace(tmp_path / "other", "text")
    UMASK.replace(tmp_path / "other", "more")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
    assert (tmp_path / "other").read_text() == "more"
