"""The settings of a PostgreSQL server that a promise rests on, and what becomes of each.

The defaults of a server, a database or a role are not ours. Every session pins what it can, after
the options of DATABASE_URL; `manage.py check --database default`, `migrate` and /readyz check the
rest. `usage/database/triggers.py` checks one more: session_replication_role = replica switches off
all guards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.validation import BaseDatabaseValidation

PINNED = {
    # Under repeatable read a record lands on a bill that was closed while it waited for the lock.
    "default_transaction_isolation": "read committed",
    # Daily usage is kept by day, and the write path's times have no zone of their own.
    "TimeZone": "UTC",
    # The write path's arrays have NULLs, and texts in which a backslash is a backslash.
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    # The guards' definitions are compared as text, in which names would be quoted.
    "quote_all_identifiers": "off",
    # The guard against TRUNCATE lets through who has set this.
    "usage.truncate_allowed": "off",
}
# What weaker settings of synchronous_commit promise is lost in a crash, or with the primary. The
# stronger remote_apply is left alone. Pinned by a statement, because it depends on the old value.
PIN_COMMIT = (
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    " WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)"
)
# Leaving a commit that waits for a standby lets the server process wait on, for as long as the
# standby is away. Ending it makes its rows visible, which only `repeatable` makes safe: it answers
# for found rows when they are on the standby.
END_GIVEN_UP = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(%s)"
    " AND wait_event = 'SyncRep' AND datname = current_database() AND usename = current_user"
)


class Requirement(NamedTuple):
    """A setting that a session cannot change, and the sentence for another value."""

    name: str
    wanted: str
    sentence: str

    def refusal(self, value: str) -> str:
        """Return the sentence for this value, or nothing if it is the wanted one."""
        return "" if value == self.wanted else self.sentence.format(value=value)


# The server reports it to each connection, so the write path refuses it too.
ENCODING = Requirement(
    "server_encoding",
    "UTF8",
    "The database's encoding is {value}, which cannot hold every service and customer name:"
    " move the service to a database made with ENCODING 'UTF8'.",
)
REQUIRED = (ENCODING,)
# While these are wrong nothing can be recorded, which may be meant to be so for a while.
REQUIRED_TO_RECORD = (
    Requirement(
        "in_hot_standby",
        "off",
        "The server is a standby, which takes no records: let DATABASE_URL name the primary.",
    ),
    Requirement(
        "default_transaction_read_only",
        "off",
        "The database is read-only (default_transaction_read_only is {value}): reset that for the"
        " service's role and database.",
    ),
)
# A crash of the server's machine then loses acknowledged records, or the whole database.
ADVISED = (
    Requirement("fsync", "on", "fsync is {value}: a crash of the server loses records. Set it on."),
    Requirement(
        "full_page_writes",
        "on",
        "full_page_writes is {value}: a crash of the server may corrupt the database. Set it on.",
    ),
)


def options() -> str:
    """Return the pinned settings as libpq sends them when it connects."""
    return " ".join(
        f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in PINNED.items()
    )


class DatabaseValidation(BaseDatabaseValidation):
    """For `check --database default` and `migrate`, which errors stop."""

    def check(self, **_options: Any) -> list[CheckMessage]:
        """Return an error for each requirement that is not met, and advice."""
        return [
            *(Error(text, id="usage.E001") for text in unmet(self.connection, REQUIRED)),
            *(Advice(text, id="usage.W001") for text in unmet(self.connection, ADVISED)),
        ]


def unmet(connection: BaseDatabaseWrapper, requirements: Sequence[Requirement]) -> Iterator[str]:
    """Yield the sentence of each requirement that the server does not meet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, current_setting(name) FROM unnest(%s) AS name",
            [[requirement.name for requirement in requirements]],
        )
        values = dict(cursor.fetchall())
    for requirement in requirements:
        if refusal := requirement.refusal(values[requirement.name]):
            yield refusal
