"""An agent that moves nothing, the floor of any in Python: a download is a hard link from $NULL_AGENT_OBJECTS."""

import json
import os
import sys


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def link(objects: str, oid: str) -> str:
    os.makedirs(".git/lfs/tmp", exist_ok=True)  # noqa: PTH103 - pathlib would double the start-up
    path = os.path.abspath(f".git/lfs/tmp/null-{oid}")  # noqa: PTH100
    os.link(f"{objects}/{oid[:2]}/{oid[2:4]}/{oid}", path)
    return path


def main() -> None:
    objects = os.environ["NULL_AGENT_OBJECTS"]
    for line in sys.stdin:
        request = json.loads(line)
        event = request["event"]
        if event == "init":
            say()
            continue
        if event == "terminate":
            return
        oid, size = request["oid"], request["size"]
        say(event="progress", oid=oid, bytesSoFar=size, bytesSinceLast=size)
        if event == "upload":
            say(event="complete", oid=oid)
        else:
            say(event="complete", oid=oid, path=link(objects, oid))


if __name__ == "__main__":
    main()
