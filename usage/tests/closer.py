"""A process that closes bills as fast as it may: ``python -m usage.tests.closer TIMES CUSTOMER…``.

Prints how many it closed. A close that waits for the lock for more than 8 seconds fails.
"""

from __future__ import annotations

import itertools
import sys

import django


def close_often(times: int, customers: list[int]) -> None:
    """Close the customers' open bills in turn, so many in all, and print how many that were."""
    from usage.ledger.close import BillNotBegun, close  # noqa: PLC0415 - models need django.setup()
    from usage.models import Bill  # noqa: PLC0415 - models need django.setup()

    closed = 0
    for customer in itertools.cycle(customers):
        for bill in Bill.objects.open().filter(customer=customer):
            try:
                done = close(bill, by="Sam")
            except BillNotBegun:  # it was opened in this very millisecond
                continue
            assert done, f"Nobody else closes bills, but {bill} was closed."
            closed += 1
        if closed >= times:
            print(closed)  # noqa: T201 - what it is for
            return


if __name__ == "__main__":
    django.setup()
    close_often(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
