"""Reports so many records through the client and prints what became of them, and what it took.

Seconds by the clock, and `cost`: seconds of this process's own processor time for each record.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator

from billing_client import BillingClient, Usage

_SERVICES = ("Database Hosting", "Load Balancer", "Linux Instance", "CDN Storage")


def main(records: int) -> dict[str, float]:
    """Hand over the records one by one, as a team's own loop would."""
    with BillingClient() as billing:
        began, busy = time.perf_counter(), time.process_time()
        receipts = billing.record_many(facts(records))
        seconds, cost = time.perf_counter() - began, (time.process_time() - busy) / records
    return {"seconds": seconds, "cost": cost, **Counter(receipt.status for receipt in receipts)}


def facts(records: int) -> Iterator[Usage]:
    """So many, made as they are taken."""
    for number in range(records):
        yield Usage(
            customer_id=1 + number * 7919 % 1000,
            service=_SERVICES[number % len(_SERVICES)],
            units_consumed=1 + number % 97,
            price_per_unit="0.05",
        )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]))))
