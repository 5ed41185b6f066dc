"""A command that cannot do its work ends with one sentence, and with an exit status of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

import manage as manage_py
from usage.tests.books import Books
from usage.tests.live import PATIENCE_SECONDS

pytestmark = pytest.mark.live  # starts processes
NOWHERE = "postgres://nobody@127.0.0.1:9/nowhere"


def manage(
    *arguments: str, stdout: int = subprocess.PIPE, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "usage.tests.settings", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.parametrize(
    "command", ["close_bills", "verify_bills", "migrate", "install_guards", "create_api_key x"]
)
def test_a_database_that_is_away_is_said_in_a_sentence(command: str) -> None:
    done = manage(*command.split(), DATABASE_URL=NOWHERE)

    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("The database does not answer: ")


@pytest.mark.parametrize("command", ["check_usage", "close_bills", "verify_bills"])
def test_a_crash_and_a_wrong_setting_are_not_taken_for_what_a_command_finds(
    command: str, books: Books
) -> None:
    with books.connect() as connection:
        for table in ("usagecheck", "hold", "bill"):
            connection.cursor().execute(f"ALTER TABLE usage_{table} RENAME TO lost_{table}")

    crashed = manage(command, DATABASE_URL=books.url)
    wrong = manage(command, DATABASE_URL="nowhere")

    assert (crashed.returncode, wrong.returncode) == (2, 2)
    assert crashed.stderr.startswith("Traceback")
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


def test_output_that_cannot_be_written_is_said_in_a_sentence(unwritable: int, books: Books) -> None:
    done = manage("install_guards", stdout=unwritable, DATABASE_URL=books.url)

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
    command: str, books: Books
) -> None:
    with books.connect() as connection:
        connection.cursor().execute(
            "INSERT INTO usage_billingtimezone (id, name) VALUES (1, 'Europe/Vienna')"
        )

    done = manage(*command.split(), DATABASE_URL=books.url)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "The bills are kept in the time zone Europe/Vienna, but BILLING_TIME_ZONE is UTC: set it"
        " to Europe/Vienna and start again.\n"
    )


@pytest.mark.parametrize("command", [*COMMANDS, "install_guards"])
def test_a_command_of_a_version_whose_migrations_are_not_applied_says_so(
    command: str, books: Books
) -> None:
    with books.connect() as connection:
        connection.cursor().execute(
            "DELETE FROM django_migrations WHERE app = 'usage' AND name = '0010_validate_checks'"
        )

    done = manage(*command.split(), DATABASE_URL=books.url)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "CommandError: Migrations are not applied (usage.0010_validate_checks): run manage.py"
        " migrate.\n"
    )
