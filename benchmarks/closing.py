"""Closes a bill again and again and prints the seconds; only the last time it stays closed."""

from __future__ import annotations

import json
import os
import sys
import time

import django


def main(bill_id: int, times: int) -> list[float]:
    """Close the bill so often as it was shown to staff; each close but the last is rolled back."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    django.setup()
    from django.db import transaction  # noqa: PLC0415 - only now are the settings there

    from usage.attention.bills import examine  # noqa: PLC0415
    from usage.database.transactions import database_now  # noqa: PLC0415
    from usage.ledger import close as closing  # noqa: PLC0415
    from usage.models import Bill  # noqa: PLC0415

    bill = Bill.objects.get(pk=bill_id)
    examined = examine([bill], database_now())[bill.pk]
    shown = examined.total, examined.flags
    seconds = []
    for _ in range(times):
        with transaction.atomic():
            began = time.perf_counter()
            # `close` runs it in a transaction of its own.
            closing._close(bill, by="benchmark", reason="", shown=shown)  # noqa: SLF001
            seconds.append(time.perf_counter() - began)
            transaction.set_rollback(True)
    if not closing.close(bill, by="benchmark"):
        raise RuntimeError("The bill was closed before.")
    return seconds[1:]  # the first one warms up


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
