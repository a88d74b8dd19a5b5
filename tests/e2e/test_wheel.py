"""What `make build` makes, installed where nothing else is: it is all that a user needs."""

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cellar import Cellar
from tests.machine import Home
from tests.servers import Server

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> Path:
    """Builds sdist and wheel as `make build` does, from a copy of the sources in `folder`; where they are."""
    source = folder / "source"
    shutil.copytree(ROOT / "lfs_agent", source / "lfs_agent", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)  # with the time of now
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return folder / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels of all that lfs-agent depends on, made of what is installed here: no network is needed."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in {"pip", *dependencies("lfs-agent")}:  # pipx begins with pip
        make_wheel(importlib.metadata.distribution(name), folder)
    return folder


def dependencies(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a distribution depends on here, directly or not."""
    for text in importlib.metadata.requires(name) or []:
        required = Requirement(text)
        wanted = required.marker is None or required.marker.evaluate({"extra": ""})
        if wanted and required.name not in seen:
            seen = dependencies(required.name, seen | {required.name})
    return seen


def make_wheel(found: importlib.metadata.Distribution, folder: Path) -> None:
    """Puts an installed distribution back into a wheel."""
    facts = (found.read_text("WHEEL") or "").splitlines()
    pythons, abis, platforms = zip(*(line[5:].split("-") for line in facts if line.startswith("Tag: ")), strict=True)
    tags = "-".join(".".join(dict.fromkeys(words)) for words in (pythons, abis, platforms))
    name = found.metadata["Name"].replace("-", "_").replace(".", "_")
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tags}.whl", "w") as archive:
        for file in found.files or []:
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                archive.write(str(file.locate()), str(file))


@pytest.fixture
def clean(home: Home) -> Home:
    """A user whose PATH has nothing of the environment that runs the tests."""
    folders = home.environ["PATH"].split(os.pathsep)
    outside = [folder for folder in folders if folder != str(Path(sys.executable).parent)]
    home.environ["PATH"] = os.pathsep.join([str(home.folder / ".local" / "bin"), *outside])
    return home


Installer = Callable[[Home, Path, Path], Path]
"""Installs the wheel for somebody, its dependencies from the index; gives its environment."""


def by_pip(home: Home, wheel: Path, index: Path) -> Path:
    environment = home.folder / "environment with a space"
    home.run(sys.executable, "-m", "venv", environment)
    home.run(environment / "bin" / "pip", "install", "--no-index", "--find-links", index, wheel)
    home.environ["PATH"] = f"{environment / 'bin'}{os.pathsep}{home.environ['PATH']}"
    return environment


def by_pipx(home: Home, wheel: Path, index: Path) -> Path:
    found = f"--no-index --find-links {index}"
    home.run(sys.executable, "-m", "pipx", "install", "--python", sys.executable, "--pip-args", found, wheel)
    asked = home.run(sys.executable, "-m", "pipx", "environment", "--value", "PIPX_LOCAL_VENVS")
    return Path(asked.stdout.strip()) / "lfs-agent"


def test_a_build_is_the_same_bit_for_bit_anywhere_and_anytime(dist: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    names = sorted(path.name for path in dist.iterdir())

    assert [name.partition("-")[0] for name in names] == ["lfs_agent", "lfs_agent"]
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (dist / name).read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT)) for path in modules()}

    assert held == sources


def modules() -> Iterator[Path]:
    for path in (ROOT / "lfs_agent").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


@pytest.mark.parametrize("install", [by_pip, by_pipx])
def test_an_installed_wheel_pushes_and_clones(
    install: Installer, clean: Home, wheel: Path, index: Path, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    environment = install(clean, wheel, index)
    clean.environ.update(any_server.environ())
    clean.install()
    arguments = clean.git("config", "--global", "lfs.customtransfer.lfs-agent.args").stdout.strip()
    _, door, interpreter, worker = map(Path, shlex.split(arguments))

    assert interpreter.parent == environment / "bin"
    assert (environment / "lib") in door.parents
    assert worker.parent == door.parent
    assert str(ROOT) not in arguments

    cellar = Cellar(clean, any_server, bucket, "models", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    oid = cellar.add("vit-l/0.1/model.safetensors", 20_000_000)
    cellar.push()
    copy = cellar.clone(tmp_path / "copy")

    assert cellar.keys() == [f"models/{oid[:2]}/{oid[2:4]}/{oid}"]
    pushed = (cellar.work / "vit-l/0.1/model.safetensors").read_bytes()
    assert (copy / "vit-l/0.1/model.safetensors").read_bytes() == pushed
    assert clean.run("lfs-agent", "verify", "--deep", cwd=copy).returncode == 0
    assert "1 object" in clean.run("lfs-agent", "log", cwd=copy).stdout
