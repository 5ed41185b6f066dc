"""Every page names the zone of its times; files carry their offset."""

from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from usage.models import Customer
from usage.tests.staff import list_of, page_of, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def zone(settings: LazySettings) -> None:
    settings.TIME_ZONE = "Europe/Madrid"


def test_pages_name_the_billing_time_zone(admin_client: Client, customer: Customer) -> None:
    bill = report()

    for address in ("/admin/", list_of("usagerecord"), page_of(bill), page_of(customer)):
        assert "Times are in Europe/Madrid." in text_of(admin_client.get(address))


def test_times_in_files_are_utc(admin_client: Client, customer: Customer) -> None:
    record = report().records.get()

    response: Any = admin_client.get(reverse("admin:usage_usagerecord_export"))

    said = f"{record.recorded_at:%Y-%m-%dT%H:%M:%S}.{record.recorded_at.microsecond // 1000:03}"
    assert f"{said}+00:00" in b"".join(response.streaming_content).decode()
