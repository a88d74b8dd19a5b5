"""Runs the agent's door with eyes on it: `python -I -S spy.py LOG WORKER [noise] [names]`.

A line of JSON goes to LOG for every import, every file opened for writing, every rename, program and connection,
with the process's number. `noise`: the first import of botocore prints, warns and writes to descriptor 1, as
libraries do. `names`: *.s3.test is 127.0.0.1, for a server whose buckets are host names; noted too.
"""

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
                if noise and module == "botocore":
                    noise = False
                    _make_noise()
            case "open", (str() | bytes() as path, _, int(flags)) if flags & _WRITING:
                note("write", path=os.fsdecode(path))
            case "os.rename", (source, target, *_):
                note("rename", source=str(source), target=str(target), inode=os.lstat(source).st_ino)
            case "subprocess.Popen", (_, arguments, *_):
                note("run", argv=[str(word) for word in arguments])
            case "socket.connect", (_, address):
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

    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        local = isinstance(host, str) and (host == "s3.test" or host.endswith(".s3.test"))
        if local:
            note(host)
        return real("127.0.0.1" if local else host, *rest, **named)

    socket.getaddrinfo = getaddrinfo


if __name__ == "__main__":
    main()
