"""A check that fails is a line, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lfs_agent.doctor import Line, Patient, looked_at
from lfs_agent.errors import (
    AgentError,
    BucketError,
    CredentialsError,
    DeniedError,
    ObjectError,
    UnreachableError,
    UsageError,
)
from lfs_agent.gitrepo import Repository

FINE = Line("roof", "ok", "tight")


def look(error: Exception) -> list[Line]:
    def cellar_walls(patient: Patient) -> Iterator[Line]:
        yield FINE
        raise error

    return looked_at(cellar_walls, Patient(Repository(Path("/")), {}))


@pytest.mark.parametrize("error", [RuntimeError("no such wall"), RecursionError("no wall")])
def test_what_nobody_thought_of_is_told_after_what_was_found(error: Exception) -> None:
    assert look(error) == [
        FINE,
        Line("cellar walls", "unknown", f"unexpected {type(error).__name__}: {error}; please report it"),
    ]


def test_what_the_system_refuses_is_told_with_its_file() -> None:
    assert look(PermissionError(13, "Permission denied", "/srv/hooks/pre-push"))[1:] == [
        Line("cellar walls", "unknown", "/srv/hooks/pre-push: Permission denied")
    ]
    assert look(OSError(5, "Input/output error"))[1:] == [Line("cellar walls", "unknown", "Input/output error")]


@pytest.mark.parametrize("error, status", [
    (UsageError("so"), "problem"),
    (BucketError("so"), "problem"),
    (DeniedError("so"), "problem"),
    (UnreachableError("so"), "unknown"),
    (ObjectError("so"), "unknown"),
])  # fmt: skip
def test_what_could_not_be_asked_is_no_problem_and_no_success(error: AgentError, status: str) -> None:
    (_, line) = look(error)
    assert (line.check, line.status, line.text) == ("cellar walls", status, "so")


@pytest.mark.parametrize("said, line", [("no such profile", "credentials"), ("RequestTimeTooSkewed", "clock")])
def test_credentials_are_told_as_that_whichever_check_they_stop(said: str, line: str) -> None:
    assert look(CredentialsError(said)) == [FINE, Line(line, "problem", said)]
