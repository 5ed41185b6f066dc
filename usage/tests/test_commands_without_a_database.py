"""A command whose database is away, or is kept in another time zone, ends with one sentence."""

import os
import subprocess
import sys

import pytest

from usage.tests.books import Books

pytestmark = pytest.mark.live  # starts processes
NOWHERE = "postgres://nobody@127.0.0.1:9/nowhere"


def manage(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "usage.tests.settings", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command", ["close_bills", "verify_bills", "migrate", "install_guards", "create_api_key x"]
)
def test_a_database_that_is_away_is_said_in_a_sentence(command: str) -> None:
    done = manage(*command.split(), DATABASE_URL=NOWHERE)

    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("The database does not answer: ")


def test_a_command_in_another_time_zone_says_so(books: Books) -> None:
    with books.connect() as connection:
        connection.cursor().execute(
            "INSERT INTO usage_billingtimezone (id, name) VALUES (1, 'Europe/Vienna')"
        )

    done = manage("verify_bills", DATABASE_URL=books.url)

    assert done.returncode == 2
    assert done.stderr == (
        "The bills are kept in the time zone Europe/Vienna, but BILLING_TIME_ZONE is UTC: set it"
        " to Europe/Vienna and start again.\n"
    )
