"""The floor: the least that a Django service can do with a usage record.

No middleware, no authentication, no validation, no duplicate found: it parses the body and makes
one INSERT of the row (for an array, one of many rows) on a connection that stays open. libpq
finds the database in PGHOST, PGUSER and the like.
"""

import datetime as dt
import json
import os
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path
from psycopg2.extras import execute_values

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "CONN_MAX_AGE": None,
        }
    },
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
)

INSERT = (
    "INSERT INTO usage_record (request_id, customer_id, bill_id, service, units, price_per_unit,"
    " occurred_at, recorded_at, late, reported_by_id, void_reason, voided_by) VALUES "
)
ROW = "(%s, %s, 1, %s, %s, %s, %s, %s, false, 1, '', '')"


def record_usage(request: HttpRequest) -> HttpResponse:
    """Insert one record, or an array of them."""
    body = json.loads(request.body)
    now = dt.datetime.now(dt.UTC)
    with connection.cursor() as cursor:
        if isinstance(body, list):
            execute_values(
                cursor.cursor, INSERT + "%s", [row(item, now) for item in body], ROW, len(body)
            )
        else:
            cursor.execute(INSERT + ROW, row(body, now))
    return HttpResponse(b"{}", status=201, content_type="application/json")


def row(item: dict[str, Any], now: dt.datetime) -> tuple[Any, ...]:
    return (
        item["request_id"],
        item["customer_id"],
        item["service"],
        item["units_consumed"],
        item["price_per_unit"],
        now,
        now,
    )


urlpatterns = [path("api/v1/usage/", record_usage)]
application = get_wsgi_application()
