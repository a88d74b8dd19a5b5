"""localstack_main.py DIR PORT: LocalStack's S3 on 127.0.0.1:PORT, all its files below DIR.

Run by the Python of LocalStack's own environment.
One JSON line per request goes to $ACCESS_LOG, from LocalStack's own chain of handlers.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    folder, port = Path(sys.argv[1]), sys.argv[2]
    os.environ.update(
        SERVICES="s3",
        GATEWAY_LISTEN=f"127.0.0.1:{port}",
        EAGER_SERVICE_LOADING="1",
        DISABLE_EVENTS="1",
        SKIP_SSL_CERT_DOWNLOAD="1",
        DNS_ADDRESS="0",
        OVERRIDE_IN_DOCKER="0",
        FILESYSTEM_ROOT=str(folder),
        HOME=str(folder),
        LS_LOG="error",
    )
    # It keeps one file open per object over 512 KiB.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    from localstack.aws import handlers
    from localstack.runtime.main import main as run
    from localstack.services.s3 import provider

    # Else all instances on a machine share one folder.
    provider.DEFAULT_S3_TMP_DIR = str(folder / "objects")
    handlers.run_custom_response_handlers.append(log_request)
    run()


def log_request(_: Any, context: Any, response: Any) -> None:
    request = context.request
    if request.path.startswith("/_localstack/") or context.is_internal_call:
        return
    entry = {
        "operation": context.operation.name if context.operation else None,
        "method": request.method,
        "target": request.environ.get("RAW_URI") or request.full_path,
        "status": response.status_code,
        "bytes": body_size(request.method, request.headers, response.headers),
    }
    log = os.open(os.environ["ACCESS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(log, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(log)


def body_size(method: str, asked: Any, answered: Any) -> int | None:
    if method in ("PUT", "POST"):
        size = asked.get("x-amz-decoded-content-length") or asked.get("content-length")
    elif method == "HEAD":
        size = "0"
    else:
        size = answered.get("content-length")
    return int(size) if size is not None else None


if __name__ == "__main__":
    main()
