"""`manage.py verify_bills --read-from` reads one database and keeps its result in another."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from billing_project.settings import database
from usage.ledger.record import record
from usage.management.commands.verify_bills import settings_of
from usage.models import CommandRun
from usage.tests.books import Books, copied, default_database
from usage.tests.factories import FactFactory


def test_another_database_is_read_and_the_result_kept_in_ours(
    own_books: Books, books_to_copy: Books
) -> None:
    with copied(books_to_copy) as standby:
        with default_database(standby.url):
            record([FactFactory.build(customer_id=1)], reported_by_id=None)
        written = io.StringIO()

        call_command("verify_bills", "--read-from", standby.url, stdout=written)

        assert written.getvalue() == "1 bill with 1 record verified: no difference.\n"
        (run,) = CommandRun.objects.all()
        assert (run.command, run.exit_status) == ("verify_bills", 0)
        with default_database(standby.url):
            assert not CommandRun.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "url", ["nowhere", "mysql://u:secret@127.0.0.1/books", "postgres://u@h:x/y"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CommandError, match="--read-from is not the address of a database") as error:
        call_command("verify_bills", "--read-from", url)

    assert error.value.returncode == 2


def test_the_standby_is_asked_for_by_its_own_hosts_and_options() -> None:
    primary = database("postgres://u:p@/books?host=a,b&target_session_attrs=read-write")

    one = settings_of("postgres://v:q@c/books", primary, vendor="postgresql")
    url = "postgres://v:q@/books?host=c,d&options=-c%20geqo%3Doff"
    some = settings_of(url, primary, vendor="postgresql")

    assert (one["USER"], one["HOST"]) == ("v", "c")
    assert one["OPTIONS"].keys() & {"host", "target_session_attrs"} == set()
    assert some["OPTIONS"]["host"] == "c,d"
    assert some["OPTIONS"]["options"] == f"{primary['OPTIONS']['options']} -c geqo=off"
    assert some["OPTIONS"]["connect_timeout"] == primary["OPTIONS"]["connect_timeout"]
