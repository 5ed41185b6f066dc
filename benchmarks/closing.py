"""Closes a bill again and again and prints the seconds; only the last time it stays closed."""

from __future__ import annotations

import json
import os
import sys
import time

import django


def main(bill_id: int, times: int) -> list[float]:
    """Close the bill so often; all that `Bill.close` does, but the commit, is rolled back."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    django.setup()
    from django.db import transaction  # noqa: PLC0415 - only now are the settings there

    from usage.models import Bill  # noqa: PLC0415

    bill = Bill.objects.get(pk=bill_id)
    seconds = []
    for _ in range(times):
        with transaction.atomic():
            began = time.perf_counter()
            bill._close(by="benchmark", reason="")  # noqa: SLF001 - what close() runs in a transaction of its own
            seconds.append(time.perf_counter() - began)
            transaction.set_rollback(True)
    if not bill.close(by="benchmark"):
        raise RuntimeError("The bill was closed before.")
    return seconds[1:]  # the first one warms up


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
