"""The documentation says what the code has, and nothing else."""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from docs import generate
from lfs_agent.cli import COMMANDS, main
from lfs_agent.collector import Orphan
from lfs_agent.commands import config, gc, log, prune, repair, steps, uploads, verify
from lfs_agent.config import SETTINGS
from lfs_agent.doctor import Line
from lfs_agent.ledger import Mark, Registration
from lfs_agent.pointer import Pointer, parse_oid
from lfs_agent.provision import Step
from lfs_agent.prune import Judged, Local
from lfs_agent.repair import Case
from lfs_agent.store import Unfinished
from lfs_agent.unfinished import Found
from lfs_agent.verify import Finding

ROOT = Path(generate.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MODULES = sorted((ROOT / "lfs_agent").rglob("*.py"))


@pytest.mark.parametrize("page", sorted(generate.REFERENCE.glob("*.md")), ids=lambda page: page.stem)
def test_the_reference_is_as_the_code_has_it(page: Path) -> None:
    text = page.read_text()
    assert text == generate.filled(text), "run: .venv/bin/python docs/generate.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_itself_by_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])

    taught = capsys.readouterr().out.partition("\nexamples:\n")[2].partition("\nexit status:")[0]
    assert ended.value.code == 0
    assert taught.count(f"lfs-agent {name}") >= 2


def test_settings_commands_statuses_and_errors_are_all_in_the_reference() -> None:
    asked_for = [name for page in PAGES for name in generate.asked_for(page.read_text())]
    assert sorted(asked_for) == ["commands", "errors", "settings", "statuses"]


def test_every_event_of_the_log_is_in_the_reference_and_no_other() -> None:
    said = {event for module in MODULES for event in _events(ast.parse(module.read_text()))}
    said |= {"uploaded", "replaced", "skipped", "downloaded"}  # the result's own word
    table = (DOCS / "reference" / "log.md").read_text().partition("## Events")[2]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == said


def _events(tree: ast.Module) -> Iterator[str]:
    """The first argument of log.info("uploaded", …) and its like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="debug" | "info" | "warning" | "error"),
                args=[ast.Constant(value=str(event))],
            ):
                yield event


def test_every_line_of_doctor_is_in_its_table_and_no_other() -> None:
    code = ast.parse((ROOT / "lfs_agent" / "doctor.py").read_text())
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Line"]
    said = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    table = (DOCS / "how-to" / "doctor.md").read_text().partition("## What it looks at")[2]
    assert _fields(table) == said


def test_the_fields_of_json_are_in_the_reference_and_no_others() -> None:
    pointer = Pointer(parse_oid("0" * 64), 1)
    finding = verify.to_json(Finding("present", pointer, "", "", "", []), depth="presence")
    summary = log.Summary("", failures={"": log.Failure("", 0, 0, "", "")})
    case = repair.to_json(Case("missing", Finding("missing", pointer, "", "", "", []), ""))
    judged = prune.to_json(Judged("prunable", Local(pointer.oid, Path(), 1), "", ""))
    session = log.to_json(summary, {})
    mark = Mark(pointer.oid, 1, "", 0, "", 0)
    collected = gc.to_json(Orphan("orphan", pointer.oid, 1, "", "", 0, mark))
    tables = (DOCS / "reference" / "json.md").read_text().split("\n## ")[1:]
    upload = uploads.to_json(Found("gone", Unfinished("", "", None), parse_oid("0" * 64), ""))
    assert [_fields(table) for table in tables] == [
        set(finding),
        set(case),
        set(judged),
        set(collected),
        set(Registration._fields),
        set(upload),
        set(session),
        set(config.Row._fields),
        {field.name for field in fields(Line)},
        {field.name for field in fields(Step)} | {"document"},
        set(steps.to_json("", "", "")),
    ]
    failure = next(line for line in tables[6].splitlines() if line.startswith("| `failures`"))
    assert set(re.findall("`([^`]+)`", failure)) == {"failures", *session["failures"][0]}


def test_every_step_of_a_command_is_in_the_reference_and_no_other() -> None:
    table = (DOCS / "reference" / "json.md").read_text().partition("## `lfs-agent install")[2]
    row = next(line for line in table.splitlines() if line.startswith("| `step`"))
    said = {step for module in MODULES for step in _steps(ast.parse(module.read_text()))}
    assert set(re.findall("`([^`]+)`", row)) == {"step", "next", *said}


def _steps(tree: ast.Module) -> Iterator[str]:
    """The first argument of told.tell("registration", …) and its like."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="tell"), args=[ast.Constant(value=str(step)), *_]):
                yield step


def _fields(table: str) -> set[str]:
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall("`([^`]+)`", cell)}


SENTENCES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
NOT_OURS = {
    "GH008", "501", "EOF", "broken pipe", 'missing protocol: "s3::…"', "Smudge error",
    "missing or corrupt local objects", "(missing)", "Encountered …",
}  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_messages_in_troubleshooting_are_those_of_the_code(sentence: str) -> None:
    """`…` stands for what differs from case to case."""
    if not any(foreign in sentence for foreign in NOT_OURS):
        assert any(all(piece in text for piece in sentence.split("…")) for text in _said())


@cache
def _said() -> list[str]:
    door = (ROOT / "lfs_agent" / "door.sh").read_text()
    return [door, *(text for module in MODULES for text in _texts(ast.parse(module.read_text())))]


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                yield "".join(str(value.value) if isinstance(value, ast.Constant) else "\0" for value in values)
            case ast.Constant(value=str(text)):
                yield text


def test_the_readme_gives_a_reason_for_each_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = (ROOT / "README.md").read_text().partition("## Dependencies")[2]
    named = re.findall(r"^\| ([a-z][a-z0-9-]+) \|", table, re.MULTILINE)
    assert named[1:] == [re.split("[<>=~]", needed)[0] for needed in project["dependencies"]]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_pages_call_settings_and_commands_exists(page: Path) -> None:
    text = page.read_text()
    for variable in set(re.findall(r"\bLFS_AGENT_[A-Z_]+[A-Z]\b", text)):
        assert variable in {setting.variable for setting in SETTINGS}
    git_keys = {setting.git_key.lower() for setting in SETTINGS} | {"lfs-agent.trusted"}
    for key in set(re.findall(r"\blfs-agent\.(?:my-cellar\.|BUCKET\.)?([A-Za-z]+)\b", text)):
        assert f"lfs-agent.{key.lower()}" in git_keys or key in NOT_KEYS
    for command in set(re.findall(r"(?:^\$? ?|`|&& )lfs-agent ([a-z][a-z-]*)", text, re.MULTILINE)):
        assert command in COMMANDS


NOT_KEYS = {"path", "args", "concurrent", "added", "git"}
"""`lfs.customtransfer.lfs-agent.path` and the like."""
