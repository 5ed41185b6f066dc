"""`manage.py check --database default` says what is wrong with what the database holds."""

import pytest
from django.core.checks import CheckMessage, Tags, run_checks
from pytest_django.fixtures import Settings

from usage.tests.factories import CustomerFactory
from usage.tests.staff import report

pytestmark = pytest.mark.django_db


def found() -> list[CheckMessage]:
    messages = run_checks(tags=[Tags.database], databases=["default"])
    return [message for message in messages if message.id in {"usage.E002", "usage.W002"}]


def test_books_in_order_are_passed_over() -> None:
    CustomerFactory.create(currency="KWD")
    assert found() == []


def test_customers_whose_currency_is_refused_for_new_ones_are_named() -> None:
    for number, currency in ((1, "XAU"), (2, "USD"), (3, "ITL")):
        CustomerFactory.create(id=number, currency=currency)

    (message,) = found()

    assert message.id == "usage.W002"
    assert "1 (XAU), 3 (ITL)." in message.msg


def test_another_time_zone_than_the_bills_is_an_error(settings: Settings) -> None:
    CustomerFactory.create(id=123)
    report()
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Europe/Vienna"

    (message,) = found()

    assert message.id == "usage.E002"
    assert "kept in the time zone UTC" in message.msg
