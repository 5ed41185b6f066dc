"""Answers for operators: does the process live, and can it do its work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from django.db import Error, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from usage.database import deadline, triggers
from usage.database.deadline import CircuitOpen, circuit
from usage.database.migrations import unapplied_migrations
from usage.database.postgresql.session import REQUIRED, REQUIRED_TO_RECORD, unmet
from usage.database.postgresql.waiting import GivenUp
from usage.models import BillingTimeZone, OtherTimeZone

logger = logging.getLogger(__name__)

# libpq gives a refused connection no SQLSTATE, only the server's words.
_REFUSED = {
    "too many": "The server has no connection left: raise max_connections or use fewer workers.",
    "remaining connection slots": (
        "The server has no connection left: raise max_connections or use fewer workers."
    ),
    "authentication failed": "The server refuses the user or password of DATABASE_URL.",
    "does not exist": "The server has no such user or database: check DATABASE_URL.",
    "starting up": "The server is starting up.",
    "shutting down": "The server is shutting down.",
    "recovery mode": "The server is recovering from a crash.",
}


@require_safe
def livez(_request: HttpRequest) -> HttpResponse:
    """Answer that the process answers."""
    return JsonResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@require_safe
def readyz(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if this process could record usage now, else 503 with the reasons."""
    # On SQLite a transaction waits for the one writer, and would make others wait.
    begin = transaction.atomic if connection.vendor == "postgresql" else nullcontext
    try:
        with circuit.attempt(deadline.PROBE_SECONDS), begin():
            missing = list(_missing())
    except CircuitOpen:
        missing = ["The database has not answered for a while, and a request is trying it now."]
    except Error as error:
        logger.warning("Not ready: the database is unavailable.", exc_info=error)
        missing = [_reason(error)]
    return JsonResponse(
        {"status": "unavailable" if missing else "ok", "missing": missing},
        status=503 if missing else 200,
        headers={"Cache-Control": "no-store"},
    )


def _missing() -> Iterator[str]:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Shorter than the probe's own limit, so that a lock is reported as a lock.
            cursor.execute("SET LOCAL lock_timeout = 1000; SET LOCAL statement_timeout = 1500")
        if reasons := list(unmet(connection, REQUIRED_TO_RECORD + REQUIRED)):
            yield from reasons
            return
    if names := unapplied_migrations():
        yield f"Migrations are not applied ({names}): run manage.py migrate."
        return
    if faults := triggers.faults(connection):
        yield f"Guards do not hold ({triggers.described(faults)}): run manage.py install_guards."
    try:
        BillingTimeZone.objects.confirm()
    except OtherTimeZone as error:
        yield str(error)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # The lock that recording takes on each table it writes.
            cursor.execute(
                "LOCK TABLE usage_customer, usage_bill, usage_usagerecord, usage_dailyusage"
                " IN ROW EXCLUSIVE MODE"
            )
            if circuit.is_open:
                # Commits may hang while all else is answered: this one shows whether they do.
                cursor.execute("SELECT pg_logical_emit_message(true, 'billing', '')")
    else:
        yield from _missing_of_file(Path(connection.settings_dict["NAME"]))


def _missing_of_file(file: Path) -> Iterator[str]:
    """Look at what SQLite finds out only when it writes, which would hold up its one writer."""
    if not file.exists():  # it is in memory
        return
    disk = os.statvfs(file.parent)
    is_writable = all(os.access(path, os.W_OK) for path in (file, file.parent))
    if disk.f_flag & os.ST_RDONLY or not is_writable:
        yield "The database's file or its folder cannot be written: look at its owner and disk."
    elif disk.f_bavail * disk.f_frsize < 2**20:  # too little for the log to grow
        yield "The disk of the database is full: make room on it."


def _reason(error: Error) -> str:
    """Return in one sentence what keeps the database from answering, without its address."""
    cause, text = error.__cause__, str(error)
    if isinstance(cause, GivenUp):
        seconds = f"{deadline.PROBE_SECONDS:g} seconds"
        return f"The database did not answer within {seconds}: look at its server and its disk."
    if getattr(cause, "pgcode", None) == "55P03" or "locked" in text:
        return (
            "A lock is held on the service's tables: wait for the migration or job that holds it."
        )
    for words, reason in _REFUSED.items():
        if words in text:
            return reason
    return "The database cannot be reached: check DATABASE_URL and the server."


PROBES = {"/livez": livez, "/readyz": readyz}
