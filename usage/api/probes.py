"""Answers for operators: does the process live, and can it do its work."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from usage.database import triggers
from usage.models import Bill
from usage.periods import month_bounds


@require_safe
def livez(_request: HttpRequest) -> HttpResponse:
    """Answer that the process answers."""
    return JsonResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@require_safe
def readyz(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if this process can record usage, else 503 with what is missing."""
    try:
        missing = list(_missing())
    except Error:
        missing = ["The database does not answer: check DATABASE_URL and the server."]
    return JsonResponse(
        {"status": "unavailable" if missing else "ok", "missing": missing},
        status=503 if missing else 200,
        headers={"Cache-Control": "no-store"},
    )


def _missing() -> Iterator[str]:
    executor = MigrationExecutor(connection)
    if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
        yield f"Migrations are not applied ({names}): run manage.py migrate."
        return
    if faults := triggers.faults(connection):
        yield f"Guards do not hold ({triggers.described(faults)}): run manage.py install_guards."
    newest = Bill.objects.order_by("-pk").first()
    if newest is not None and not _is_within_month(newest):
        yield (
            f"BILLING_TIME_ZONE is {settings.BILLING_TIME_ZONE}, but bills were opened in another"
            " zone: set it back."
        )


def _is_within_month(bill: Bill) -> bool:
    start, end = month_bounds(bill.month)
    return start <= bill.period_start and bill.period_end <= end


PROBES = {"/livez": livez, "/readyz": readyz}
