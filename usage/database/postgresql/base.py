"""Django's PostgreSQL backend with limits on waiting and with pinned session settings."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg2
from django.db.backends.postgresql import base

from usage.database import deadline
from usage.database.deadline import circuit
from usage.database.postgresql import session
from usage.database.postgresql.waiting import Connection, GivenUp


class DatabaseWrapper(base.DatabaseWrapper):
    """Connects to the first address that answers, each in its share of the time that is left."""

    validation_class = session.DatabaseValidation
    # Why nothing may be written by this connection: a sentence, or nothing.
    refusal = ""

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        params["options"] = f"{params.get('options', '')} {session.options()}".strip()
        return params | {"connection_factory": Connection}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection; raises the error of the last address, or GivenUp."""
        addresses = list(_addresses(conn_params))
        patience = float(conn_params.get("connect_timeout", 0)) or math.inf
        limit = deadline.current() or deadline.Limit()
        while True:
            if limit.is_over:
                raise GivenUp("There was no time left to connect to the database.")
            share = (limit.ends - monotonic()) / len(addresses)
            address = addresses.pop(0)
            try:
                with deadline.within(min(patience, share)):
                    return super().get_new_connection(conn_params | address)
            except psycopg2.OperationalError:
                if not addresses:
                    raise

    def is_usable(self) -> bool:
        """Tell whether the connection lives; a server that is silent now gets a new one."""
        with deadline.within(deadline.HEALTH_CHECK_SECONDS):
            return bool(super().is_usable())

    def init_connection_state(self) -> None:
        super().init_connection_state()
        # The server reports its encoding when it connects, so this asks nothing.
        encoding = self.connection.info.parameter_status(session.ENCODING.name)
        self.refusal = session.ENCODING.refusal(encoding)
        with self.connection.cursor() as cursor:
            cursor.execute(session.PIN_COMMIT)
            if given_up := circuit.take_given_up():
                cursor.execute(session.END_GIVEN_UP, [given_up])


def _addresses(conn_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what to add to the parameters for each address of each host.

    libpq tries them all by itself, but in a process that keeps the time it does not notice that
    one of them is silent.
    """
    hosts = str(conn_params.get("host", "")).split(",")
    ports = str(conn_params.get("port", "")).split(",")
    if "hostaddr" in conn_params or hosts == [""]:
        yield {}
        return
    for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True):
        named = {"host": host, "port": port or None}
        if host.startswith("/"):
            yield named
            continue
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            yield named  # libpq's own error names the host
            continue
        for hostaddr in dict.fromkeys(str(address[0]) for *_, address in found):
            yield named | {"hostaddr": hostaddr}
