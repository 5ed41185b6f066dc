"""`manage.py verify_bills --read-from` reads one database and keeps its result in another."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from usage.ledger.record import record
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
def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CommandError, match="--read-from is not the address of a database"):
        call_command("verify_bills", "--read-from", "nowhere")
