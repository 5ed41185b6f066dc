"""Real processes count each for itself, and add the rest when they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import partial
from typing import Any

import pytest
from django.conf import settings

from usage.tests.books import Books
from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS, Caller, Service, at_once

pytestmark = pytest.mark.live
CALLERS = 16
ROUNDS = 8


def totals(books: Books) -> Counter[str]:
    """Add up the counts of all days."""
    counts: Counter[str] = Counter()
    for row in books.table("usage_traffic"):
        for name in ("created", "replayed", "conflicting", "refused"):
            counts[name] += row[name]
    return +counts


def report(caller: Caller, customer: int) -> Counter[str]:
    """Send records that have each outcome; return how many had which."""
    answered: Counter[str] = Counter()
    names = {201: "created", 200: "replayed", 409: "conflicting", 400: "refused"}
    for _ in range(ROUNDS):
        body = usage_body(customer_id=customer)
        other = body | {"units_consumed": 1}
        batch = caller.post([body, usage_body(customer_id=customer), other, {}])
        statuses = [result["status"] for result in batch.json["results"]]
        statuses += [caller.post(single).status for single in (body, other, {}, b"{")]
        answered.update(names[status] for status in statuses)
    return answered


def test_workers_that_are_stopped_have_counted_every_answer_once(books: Books) -> None:
    # Which add nothing before they end.
    with Service(books, workers=3, application="usage.tests.unflushed") as service:
        callers = service.callers(CALLERS)
        customers = [service.customer() for _ in callers]
        answered = at_once(
            [partial(report, *pair) for pair in zip(callers, customers, strict=True)]
        )
        for caller in callers:
            caller.connection.close()
        service.stop_workers()

        assert totals(books) == sum(answered, Counter[str]())
        assert len(books.table("usage_refusal")) == 50
        assert "was not counted" not in service.log()


FORKED = """
import os
import sys

import django

django.setup()
from usage.api.traffic import traffic
from usage.models import ApiKey

key = ApiKey.objects.get().pk
traffic.recorded(key, created=1, replayed=0)
child = os.fork()
if child == 0:
    traffic.recorded(key, created=0, replayed=1)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_adds_what_it_counted_itself(books: Books) -> None:
    environment: dict[str, Any] = os.environ | {
        "DATABASE_URL": books.url,
        "DJANGO_SETTINGS_MODULE": "billing_project.settings",
    }
    subprocess.run(
        [sys.executable, "-c", FORKED],
        cwd=settings.BASE_DIR,
        env=environment,
        check=True,
        timeout=PATIENCE_SECONDS,
    )

    assert totals(books) == {"created": 1, "replayed": 1}
