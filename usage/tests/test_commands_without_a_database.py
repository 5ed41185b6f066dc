"""A command that cannot do its work ends with one sentence, and with an exit status of its own."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import psycopg2
import pytest
from django.db import OperationalError
from pytest_django.plugin import DjangoDbBlocker

import manage as manage_py
from usage import migrations
from usage.database.deadline import circuit
from usage.tests.books import Books, default_database
from usage.tests.live import PATIENCE_SECONDS

NOWHERE = "postgres://nobody@127.0.0.1:9/nowhere"
NEWEST_MIGRATION = max(path.stem for path in Path(migrations.__path__[0]).glob("[0-9]*.py"))


class Done(NamedTuple):
    returncode: object
    stdout: str
    stderr: str


Manage = Callable[[str, str], Done]


@pytest.fixture
def manage(
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Manage]:
    """Run manage.py on a database, in this process: another one would start for a second."""
    # It sets up logging anew, with a handler that writes to the output captured here. Left behind,
    # that would write to a closed stream and report each line of later tests with a traceback.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers.copy())

    def manage(command: str, url: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["manage.py", *command.split()])
        with default_database(url), pytest.raises(SystemExit) as ended:
            manage_py.main()
        return Done(ended.value.code, *capsys.readouterr())

    with django_db_blocker.unblock():
        yield manage
    circuit.reset()


def process(
    command: str, url: str, stdout: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Run manage.py on a database, in a process of its own."""
    return subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "usage.tests.settings", "DATABASE_URL": url},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.parametrize(
    "command", ["close_bills", "verify_bills", "migrate", "install_guards", "create_api_key x"]
)
def test_a_database_that_is_away_is_said_in_a_sentence(command: str, manage: Manage) -> None:
    done = manage(command, NOWHERE)

    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("The database does not answer: ")


@pytest.mark.parametrize("command", ["check_usage", "close_bills", "verify_bills"])
def test_a_crash_is_not_taken_for_what_a_command_finds(
    command: str, books: Books, manage: Manage
) -> None:
    with books.connect() as connection:
        for table in ("usagecheck", "hold", "bill"):
            connection.cursor().execute(f"ALTER TABLE usage_{table} RENAME TO lost_{table}")

    crashed = manage(command, books.url)

    assert crashed.returncode == 2
    assert crashed.stderr.startswith("Traceback")


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("command", ["check_usage", "close_bills", "verify_bills"])
def test_a_wrong_setting_is_not_taken_for_what_a_command_finds(command: str) -> None:
    wrong = process(command, "nowhere")

    assert wrong.returncode == 2
    assert wrong.stderr.startswith("DATABASE_URL is malformed, but must be ")


@pytest.fixture(params=["a full disk", "a reader that has gone"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param == "a full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        read, output = os.pipe()
        os.close(read)
    yield output
    os.close(output)


@pytest.mark.live  # starts processes
def test_output_that_cannot_be_written_is_said_in_a_sentence(unwritable: int, books: Books) -> None:
    done = process("install_guards", books.url, unwritable)

    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("The output cannot be written (")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manage_py, "execute_from_command_line", Mock(side_effect=KeyboardInterrupt))

    with pytest.raises(SystemExit) as ended:
        manage_py.main()

    assert ended.value.code == 130


COMMANDS = [
    "check_usage",
    "close_bills",
    "verify_bills",
    "void_records --reason Wrong --customer 1",
    "create_api_key cdn",
    "import_customers fixtures/customers.csv",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_another_time_zone_says_so_and_does_nothing(
    command: str, books: Books, manage: Manage
) -> None:
    with books.connect() as connection:
        connection.cursor().execute(
            "INSERT INTO usage_billingtimezone (id, name) VALUES (1, 'Europe/Vienna')"
        )

    done = manage(command, books.url)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "The bills are kept in the time zone Europe/Vienna, but BILLING_TIME_ZONE is UTC: set it"
        " to Europe/Vienna and start again.\n"
    )


@pytest.mark.parametrize("command", [*COMMANDS, "install_guards"])
def test_a_command_of_a_version_whose_migrations_are_not_applied_says_so(
    command: str, books: Books, manage: Manage
) -> None:
    with books.connect() as connection:
        connection.cursor().execute(
            f"DELETE FROM django_migrations WHERE app = 'usage' AND name = '{NEWEST_MIGRATION}'"
        )

    done = manage(command, books.url)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"CommandError: Migrations are not applied (usage.{NEWEST_MIGRATION}):"
        " run manage.py migrate.\n"
    )


@pytest.mark.parametrize(
    ("state", "said", "sentence"),
    [
        (None, "connection refused", "The database does not answer: connection refused"),
        (
            "55P03",
            "canceling statement due to lock timeout\n",
            "The database refused: canceling statement due to lock timeout",
        ),
        (
            "42501",
            "permission denied for table django_migrations\n",
            (
                "The database refused: permission denied for table django_migrations."
                " The user of its address may not do this."
            ),
        ),
        (
            None,
            'invalid dsn: invalid connection option "bogus"\n',
            'The address of the database is malformed: invalid connection option "bogus".',
        ),
    ],
)
def test_a_database_that_refuses_is_said_in_a_sentence(
    state: str | None,
    said: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Refusal(psycopg2.OperationalError):
        pgcode = state

    error = OperationalError(said)
    error.__cause__ = Refusal(said)
    monkeypatch.setattr(manage_py, "execute_from_command_line", Mock(side_effect=error))

    with pytest.raises(SystemExit) as ended:
        manage_py.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{sentence}\n"
