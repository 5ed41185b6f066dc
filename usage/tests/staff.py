"""What the tests of staff's pages share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.admin.utils import quote
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from usage.admin.rows import record_url
from usage.ledger.facts import Recorded
from usage.ledger.record import record
from usage.models import ApiKey, Bill, UsageRecord
from usage.tests.factories import FactFactory


def report(count: int = 1, *, reported_by: ApiKey | None = None, **values: Any) -> Bill:
    """Record facts of one customer; return the bill of the last one."""
    facts = FactFactory.build_batch(count, **values)
    outcomes = record(facts, reported_by_id=reported_by.pk if reported_by else None)
    assert isinstance(outcomes[-1], Recorded), outcomes[-1]
    bill: Bill = Bill.objects.get(pk=outcomes[-1].record.bill_id)
    return bill


def page_of(row: Bill | UsageRecord | ApiKey | Any, action: str = "change") -> str:
    """Return the address of a row's page, or of an action on it."""
    if isinstance(row, UsageRecord):
        return record_url(row.pk, action)
    return reverse(f"admin:usage_{row._meta.model_name}_{action}", args=[quote(row.pk)])


def list_of(model: str, **query: Any) -> str:
    """Return the address of a list."""
    return reverse(f"admin:usage_{model}_changelist", query=query)


def text_of(response: Any) -> str:
    """Return a page that was shown."""
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def logged_in(user: User) -> Client:
    """Return the browser of a user, without the ten statements of a login."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key or ""
    return client


def staff(*permissions: str) -> Client:
    """Return the browser of a staff user who has these permissions and no other."""
    user = User.objects.create_user("Sam", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return logged_in(user)


def messages_of(response: Any) -> list[str]:
    """Return what a page that was followed to says on top."""
    return [str(message) for message in response.context["messages"]]


@contextmanager
def queries() -> Iterator[list[str]]:
    """Collect the statements that a page sends to the database."""
    statements: list[str] = []
    with CaptureQueriesContext(connection) as captured:
        yield statements
    statements += [query["sql"] for query in captured.captured_queries]


def about_records(statements: Iterable[str]) -> list[str]:
    """Keep to the statements that read usage records."""
    return [sql for sql in statements if "usage_usagerecord" in sql]
