"""Ceph's RADOS Gateway with one monitor and one OSD: the independent, older S3, without the new checksums."""

import subprocess
import uuid
from pathlib import Path
from typing import ClassVar, Literal

from tests.servers.access import Request, parse_beast_line
from tests.servers.server import Server, ServerError, Tls, free_port, program

PROGRAMS = ("ceph", "ceph-authtool", "monmaptool", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")


class Ceph(Server):
    """Ceph RGW. `store`: "memstore" for tests, "bluestore" (a sparse file of 20 GiB) for large objects."""

    name: ClassVar[str] = "ceph"
    supports: ClassVar[frozenset[str]] = frozenset(
        {"access_log", "conditional_put", "policies", "stored_headers", "tls", "wrong_secret_refused"}
    )
    start_timeout_s = 90.0

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        tls: Tls | None = None,
        store: Literal["memstore", "bluestore"] = "memstore",
    ) -> None:
        super().__init__(folder, port=port, tls=tls)
        self.store = store

    @classmethod
    def missing(cls) -> str | None:
        absent = [name for name in PROGRAMS if program(name) is None]
        if not absent:
            return None
        needed = ", ".join(absent)
        return f"Ceph is not installed ({needed}): run `tests/install/install.sh ceph` (needs apt-get)"

    def _launch(self) -> None:
        for name in ("mon", "osd0", "run", "log", "rgw"):
            (self.folder / name).mkdir(exist_ok=True)
        monitor = free_port(16300, 30000, width=2)  # above 32767 clients do not find it
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        self._configuration.write_text(self._render(fsid, monitor))
        self._run("ceph-authtool", "--create-keyring", self.folder / "keyring", "--gen-key", "-n", "mon.")
        addresses = f"[v2:127.0.0.1:{monitor},v1:127.0.0.1:{monitor + 1}]"
        self._run(
            "monmaptool",
            "--create",
            "--clobber",
            "--fsid",
            fsid,
            "--addv",
            "a",
            addresses,
            self.folder / "monmap",
        )
        self._run(
            "ceph-mon",
            "--mkfs",
            "-i",
            "a",
            "--monmap",
            self.folder / "monmap",
            "--keyring",
            self.folder / "keyring",
        )
        self._daemon("ceph-mon", "-i", "a")
        self._run("ceph", "--connect-timeout", "20", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw.a")

    def _wait_until_ready(self) -> None:
        super()._wait_until_ready()
        keys = ("--access-key", self.access_key, "--secret-key", self.secret_key)
        self._run("radosgw-admin", "user", "create", "--uid", "demo", "--display-name", "Demo", *keys)

    def _ready(self) -> bool:
        return self._ask("GET", "/") == 200

    def _access_log(self) -> Path:
        return self.folder / "log" / "client.rgw.a.log"

    @staticmethod
    def _parse_line(line: str) -> Request | None:
        return parse_beast_line(line)

    @property
    def _configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def _daemon(self, name: str, *arguments: str) -> None:
        self._spawn([program(name) or name, "-f", "-c", self._configuration, *arguments], log=f"{name}.log")

    def _run(self, name: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [program(name) or name, "-c", self._configuration, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{name} ended with {done.returncode}:\n{done.stderr or done.stdout}")

    def _render(self, fsid: str, monitor: int) -> str:
        frontend = f"beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1"
        if self.tls:
            certificate, key = self.tls.certificate.absolute(), self.tls.key.absolute()
            frontend = (
                f"beast ssl_endpoint=127.0.0.1:{self.port} tcp_nodelay=1"
                f" ssl_certificate={certificate} ssl_private_key={key}"
            )
        return f"""[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor},v1:127.0.0.1:{monitor + 1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
ms mon client mode = crc
run dir = {self.folder}/run
pid file = {self.folder}/run/$type.$id.pid
admin socket = {self.folder}/run/$name.asok
log file = {self.folder}/log/$name.log
mon cluster log file = {self.folder}/log/cluster.log
crash dir = {self.folder}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
paxos propose interval = 0.05
mon max pg per osd = 2000
osd crush chooseleaf type = 0
mon data = {self.folder}/mon
mon data avail crit = 1
mon data avail warn = 2
osd data = {self.folder}/osd$id
osd objectstore = {self.store}
memstore device bytes = {12 << 30}
bluestore block size = {20 << 30}
bluestore fsck quick fix on mount = false
osd memory target = {3 << 29}
rgw data = {self.folder}/rgw
rgw frontends = {frontend}
rgw enable usage log = false
rgw enable ops log = false
rgw enable quota threads = false
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw dns name = {self.virtual_host}
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey-1=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"""
