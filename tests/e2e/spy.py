"""Runs the agent's door with eyes on it: `python -I -S spy.py LOG WORKER [noise] [names]`.

A line of JSON goes to LOG for every import, every file opened for writing, every rename, program and connection
by IP, with the process's number; a connection of libcurl's has no such line. `noise`: the first import of pycurl
prints, warns and writes to descriptor 1, as libraries do. `names`: *.s3.test is 127.0.0.1, for a server whose buckets
are host names; noted too.
"""

import builtins
import json
import os
import runpy
import sys
from collections.abc import Callable
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> None:
    """Sets the hook, then is the door."""
    log_path, worker, *options = sys.argv[1:]
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    noise = "noise" in options

    def note(event: str, **more: Any) -> None:
        os.write(log, json.dumps({"pid": os.getpid(), "event": event, **more}).encode() + b"\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal noise
        match event, arguments:
            case "import", (str(module), *_):
                note("import", module=module)
                if noise and module == "pycurl":
                    noise = False
                    _make_noise()
            case "open", (str() | bytes() as path, _, int(flags)) if flags & _WRITING:
                note("write", path=os.fsdecode(path))
            case "os.rename", (source, target, *_):
                note("rename", source=str(source), target=str(target), inode=os.lstat(source).st_ino)
            case "subprocess.Popen", (_, arguments, *_):
                note("run", argv=[str(word) for word in arguments])
            case "socket.connect", (_, tuple() as address):  # no other kind: workers meet by that
                note("connect", address=str(address))

    if "names" in options:
        _resolve_names(lambda host: note("resolve", host=host))
    sys.addaudithook(hook)
    runpy.run_path(worker, run_name="__main__")


def _make_noise() -> None:
    import warnings

    print("a library prints", flush=True)
    os.write(1, b'{"event":"complete","oid":"a library writes"}\n')
    warnings.warn("a library warns", stacklevel=1)


def _resolve_names(note: Callable[[str], None]) -> None:
    import socket

    real, import_ = socket.getaddrinfo, builtins.__import__

    def is_local(host: Any) -> bool:
        local = isinstance(host, str) and (host == "s3.test" or host.endswith(".s3.test"))
        if local:
            note(host)
        return local

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        return real("127.0.0.1" if is_local(host) else host, *rest, **named)

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        module: Any = import_(name, *rest, **named)
        if name == "pycurl" and hasattr(module, "Curl"):  # not from within, where it is not ready
            builtins.__import__ = import_
            module.Curl = _resolving(module, is_local)
        return module

    socket.getaddrinfo = getaddrinfo
    builtins.__import__ = importing


def _resolving(pycurl: Any, is_local: Callable[[Any], bool]) -> Any:
    """libcurl's handle, which asks nobody where the names are that are 127.0.0.1."""
    from urllib.parse import urlsplit

    class Curl(pycurl.Curl):  # type: ignore[misc]
        def setopt(self, option: int, value: Any) -> None:
            if option == pycurl.URL and is_local((url := urlsplit(value)).hostname):
                super().setopt(pycurl.RESOLVE, [f"{url.hostname}:{url.port}:127.0.0.1"])
            super().setopt(option, value)

    return Curl


if __name__ == "__main__":
    main()
