"""The statements of the database's engine, by its vendor's name."""

from __future__ import annotations

from usage.ledger.postgresql import PostgreSQLStatements
from usage.ledger.sqlite import SQLiteStatements

STATEMENTS: dict[str, type[PostgreSQLStatements | SQLiteStatements]] = {
    "postgresql": PostgreSQLStatements,
    "sqlite": SQLiteStatements,
}
