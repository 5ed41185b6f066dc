"""The servers of the drill: etcd, three nodes of Patroni, HAProxy and two services, on loopback.

They run with the files of deploy/patroni and deploy/haproxy as those are, ports included.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.databases import ROOT
from usage.tests import postgresql

NODES = (1, 2, 3)
SERVICE_PORTS = (8101, 8102)
DATABASE_URL = "postgres://postgres:drill@127.0.0.1:5432/billing"
ENVIRONMENT = {
    "DATABASE_URL": DATABASE_URL,
    "DEBUG": "0",
    "SECRET_KEY": "a key that the drill alone uses",
    "ALLOWED_HOSTS": "127.0.0.1",
    "SECURE_SSL_REDIRECT": "0",
}
HEALTHY_SECONDS = 120


class Server:
    """A process with all its children, which can be killed, frozen, thawed and started again."""

    def __init__(self, name: str, command: list[str], folder: Path, **options: Any) -> None:
        self.name, self.command, self.folder, self.options = name, command, folder, options
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it; its output goes into a file of its name."""
        with (self.folder / f"{self.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, **self.options
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process and all its children."""
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def processes(self) -> list[psutil.Process]:
        """Return the process and its children, as far as they live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End it at once, as a host that loses its power does."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()


class Node(Server):
    """Patroni with its PostgreSQL, which is not a child of Patroni."""

    def processes(self) -> list[psutil.Process]:
        """Return Patroni, the server of its data folder, and what that started."""
        data = str(self.folder / self.name)
        servers = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "postgres"
            and any(data in argument for argument in process.info["cmdline"] or [])
        ]
        children = [child for server in servers for child in server.children(recursive=True)]
        return [*super().processes(), *servers, *children]


class Cluster:
    """Everything, and what Patroni says of its nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = postgresql.server_user()
        python = self._patroni_environment()
        self.etcd = Server(
            "etcd",
            [_program("etcd"), "--data-dir", str(folder / "etcd"), "--logger", "zap"],
            folder,
        )
        self.nodes = {
            number: Node(
                f"node{number}",
                [str(python.with_name("patroni")), str(self._configuration(number))],
                folder,
                user=self.user,
                cwd=folder,
            )
            for number in NODES
        }
        self.haproxy = Server(
            "haproxy",
            [_program("haproxy"), "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")],
            folder,
        )
        self.services: dict[int, Server] = {}

    def _patroni_environment(self) -> Path:
        """Install Patroni where the servers' user may run it, away from the service's packages."""
        environment = self.folder / "patroni"
        python = environment / "bin/python"
        interpreter = os.environ.get("PATRONI_PYTHON", "/usr/bin/python3")
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "patroni[etcd3]>=4.1", "psycopg2-binary"], check=True)
        return python

    def _configuration(self, number: int) -> Path:
        text = (ROOT / "deploy/patroni/node.yml").read_text()
        for name, value in {
            "NODE": str(number),
            "FOLDER": str(self.folder),
            "BIN": str(postgresql.PROGRAMS),
            "PASSWORD": "drill",
        }.items():
            text = text.replace(f"${{{name}}}", value)
        path = self.folder / f"node{number}.yml"
        path.write_text(text)
        return path

    def members(self) -> list[dict[str, Any]]:
        """Return what the first node that answers says of all."""
        for number in NODES:
            with contextlib.suppress(requests.RequestException):
                url = f"http://127.0.0.1:801{number}/cluster"
                members: list[dict[str, Any]] = requests.get(url, timeout=2).json()["members"]
                return members
        return []

    def number_of(self, role: str) -> int:
        """Return the number of the node that has a role: leader or sync_standby."""
        return next(int(member["name"][-1]) for member in self.members() if member["role"] == role)

    def wait_for_other(self, role: str, lost: int) -> None:
        """Return once another node than the lost one has a role."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            has = {int(one["name"][-1]) for one in self.members() if one["role"] == role}
            if has - {lost}:
                return
            time.sleep(0.2)
        raise TimeoutError(f"No other node became {role} within {HEALTHY_SECONDS} s.")

    def wait_until_healthy(self) -> None:
        """Return once there is a primary with a synchronous standby, and every node follows it."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            told = [self._told_by(number) for number in NODES]
            follow = [one for one in told if one.get("replication_state") == "streaming"]
            roles = [one.get("role") for one in told]
            timelines = {one.get("timeline") for one in told}
            if (
                roles.count("primary") == 1
                and len(follow) == len(NODES) - 1
                and len(timelines) == 1
                and any(one.get("sync_standby") for one in told)
            ):
                return
            time.sleep(0.5)
        raise TimeoutError(f"The cluster is not healthy after {HEALTHY_SECONDS} s: {told}")

    def _told_by(self, number: int) -> dict[str, Any]:
        """Return what a node says of itself; what others say of it may be some seconds old."""
        with contextlib.suppress(requests.RequestException):
            url = f"http://127.0.0.1:801{number}/patroni"
            told: dict[str, Any] = requests.get(url, timeout=2).json()
            return told
        return {}

    def start_services(self) -> None:
        """Start two services, each on a port of its own."""
        for port in SERVICE_PORTS:
            command = [sys.executable, "-m", "gunicorn", "billing_project.wsgi"]
            self.services[port] = Server(
                f"service{port}",
                [*command, "--bind", f"127.0.0.1:{port}", "--workers", "2"],
                self.folder,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
            )

    def stop(self) -> None:
        """End everything."""
        for server in (*self.services.values(), self.haproxy, *self.nodes.values(), self.etcd):
            server.kill()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A healthy cluster in an empty folder that its user may enter."""
    folder.chmod(0o755)
    if user := postgresql.server_user():
        shutil.chown(folder, user)
        for parent in postgresql.PROGRAMS.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o055)
    cluster = Cluster(folder)
    try:
        cluster.wait_until_healthy()
        yield cluster
    finally:
        cluster.stop()


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise SystemExit(
            f"{name} is not installed: on Debian, apt-get install etcd-server haproxy."
        )
    return path
