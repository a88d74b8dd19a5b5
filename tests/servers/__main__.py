"""`python -m tests.servers localstack|versitygw|ceph DIR [PORT]`: runs a server until it is interrupted.

Prints the environment for a shell: `export AWS_ENDPOINT_URL_S3=…`.
"""

import shlex
import signal
import sys
from pathlib import Path

from tests.servers import KINDS, ServerError


def main(argv: list[str]) -> int:
    if len(argv) not in (2, 3) or argv[0] not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    port = int(argv[2]) if len(argv) == 3 else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with KINDS[argv[0]](Path(argv[1]), port=port) as server:
            for name, value in server.environ().items():
                print(f"export {name}={shlex.quote(value)}")
            sys.stdout.flush()
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except ServerError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
