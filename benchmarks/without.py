"""The service without one of its optimisations, for gunicorn; WITHOUT in the environment names it.

Each optimisation has one address in the product, and only that address is replaced here: the
product has no switch. `python -m benchmarks --without NAME` measures the gain.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    from usage.ledger.facts import StoredRecord

VARIABLE = "WITHOUT"


def _group_commit() -> None:
    """Let each request run its transaction alone."""
    from usage.ledger import record  # noqa: PLC0415 - after django.setup()

    for commit in (record._group_commit, record._group_commit_of_batches):  # noqa: SLF001
        commit.submit = lambda request: None  # type: ignore[method-assign]


def _large_request_limit() -> None:
    """Let two large requests record at once, also while small ones come."""
    from usage.ledger.record import _large_requests  # noqa: PLC0415 - after django.setup()

    _large_requests.small_came = lambda: None  # type: ignore[method-assign]


def _prepared_statements() -> None:
    """Let PostgreSQL plan each statement each time."""
    from usage.database import prepared  # noqa: PLC0415 - after django.setup()

    def execute(
        cursor: CursorWrapper,
        name: str,  # noqa: ARG001 - takes what its callers pass
        sql: str,
        params: Sequence[Any],
        *,
        seconds: float = 0.0,  # noqa: ARG001 - as above
    ) -> None:
        cursor.execute(sql, params)

    prepared.execute = execute


def _fair_worker() -> None:
    """Let workers take connections at once, as gunicorn's own do."""
    from billing_project.workers import FairThreadWorker  # noqa: PLC0415 - only in a worker

    del FairThreadWorker.accept


def _staying() -> None:
    """Let each request come to its thread through the worker's main thread."""
    from billing_project.workers import FairThreadWorker  # noqa: PLC0415 - only in a worker

    FairThreadWorker._stays = lambda *_: False  # type: ignore[method-assign]  # noqa: SLF001


def _pause() -> None:
    """Let a connection that was answered 429 be read again at once."""
    from billing_project import workers  # noqa: PLC0415 - only in a worker

    workers._PAUSE_SECONDS = 0.0  # noqa: SLF001


def _hand_written_json() -> None:
    """Let the json module write the answers."""
    from usage.api import views  # noqa: PLC0415 - after django.setup()
    from usage.money import EXACT, plain  # noqa: PLC0415

    def record_json(record: StoredRecord) -> str:
        return json.dumps(
            {
                "request_id": record.request_id,
                "customer_id": record.customer_id,
                "service": record.service,
                "units_consumed": plain(record.units),
                "price_per_unit": plain(record.price_per_unit),
                "amount": plain(EXACT.multiply(record.units, record.price_per_unit)),
                "occurred_at": views._rfc3339(record.occurred_at),  # noqa: SLF001
                "recorded_at": views._rfc3339(record.recorded_at),  # noqa: SLF001
                "bill": {"id": record.bill_id, "month": f"{record.bill_month:%Y-%m}"},
                "late": record.late,
            }
        )

    views.record_json = record_json


def _remembered_values() -> None:
    """Let each record make its decimals, services and times anew."""
    from usage.api import remembering  # noqa: PLC0415 - before what uses it is imported

    remembering.remembered = lambda function: function  # type: ignore[assignment, return-value]


def _known_keys() -> None:
    """Let each request ask the database for its key."""
    from usage.api.authentication import known_keys  # noqa: PLC0415 - after django.setup()

    known_keys.put = lambda *_, **__: None  # type: ignore[method-assign]


def _endpoint_first() -> None:
    """Let requests to the endpoint go through Django's handler and all of the middleware."""
    from django.conf import settings  # noqa: PLC0415 - when it is replaced

    from billing_project import endpoint  # noqa: PLC0415 - after django.setup()

    settings.MIDDLEWARE.remove("billing_project.middleware.endpoint")
    endpoint.PATHS = frozenset()


def _frozen_heap() -> None:
    """Let the garbage collector look through all that is loaded, and as often as by default."""
    gc.freeze = lambda: None
    gc.set_threshold = lambda *_: None


OPTIMISATIONS: dict[str, Callable[[], None]] = {
    "group-commit": _group_commit,
    "large-request-limit": _large_request_limit,
    "prepared-statements": _prepared_statements,
    "fair-worker": _fair_worker,
    "staying": _staying,
    "pause": _pause,
    "hand-written-json": _hand_written_json,
    "remembered-values": _remembered_values,
    "known-keys": _known_keys,
    "endpoint-first": _endpoint_first,
    "frozen-heap": _frozen_heap,
}

if VARIABLE in os.environ:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    django.setup()
    OPTIMISATIONS[os.environ[VARIABLE]]()
    # Only now, since it loads the middleware.
    from billing_project.wsgi import application  # noqa: F401 - gunicorn serves it
