"""``billing-client record``: one usage record from a shell."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

from billing_client.client import BillingClient
from billing_client.commands.lines import instant
from billing_client.errors import ConflictError, CustomerNotFoundError, ValidationError

_DESCRIPTION = """
Record one usage record. The exit status is 0 if it is recorded, also if it was before; 1 if it is
refused; 2 if that is not known yet: run the same command again. With the same --id it is billed
once, however often it is run.
"""


def add_commands(commands: Any) -> None:
    """Add ``record``."""
    parser = commands.add_parser("record", help="record one usage record", description=_DESCRIPTION)
    parser.add_argument("--customer", type=whole_number(1), required=True, metavar="ID")
    parser.add_argument("--service", required=True, metavar="NAME")
    parser.add_argument("--units", required=True, metavar="NUMBER", help="plain digits, such as 58")
    parser.add_argument("--price", required=True, metavar="NUMBER", help="per unit, such as 0.05")
    parser.add_argument(
        "--id", required=True, help="your own name for this fact; it is billed once"
    )
    parser.add_argument(
        "--occurred-at",
        type=time_argument,
        metavar="TIME",
        help="such as 2026-11-22T10:00:00Z; default: when the service records it, which may be in"
        " the next month if the command is run again after midnight",
    )
    parser.set_defaults(run=_run)


def time_argument(text: str) -> datetime:
    """A time on the command line."""
    try:
        return instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def whole_number(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A type of arguments: plain digits, from ``least`` to ``most``."""

    def number(text: str) -> int:
        # int() takes 1_000, other scripts' digits and spaces, and tells of its own limit.
        if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text[:60]!r} is not a whole number from {least} to {most}"
            )
        return int(text)

    return number


def _run(options: argparse.Namespace, out: TextIO) -> int:
    with BillingClient(options.url, outbox="") as billing:
        try:
            receipt = billing.record_usage(
                customer_id=options.customer,
                service=options.service,
                units_consumed=options.units,
                price_per_unit=options.price,
                request_id=options.id,
                occurred_at=options.occurred_at,
            )
        except (ValidationError, CustomerNotFoundError, ConflictError) as error:
            print(error, file=sys.stderr)  # noqa: T201 - a command prints
            return 1
    done = "recorded" if receipt.status == "created" else "was recorded before"
    late = ", late" if receipt.late else ""
    out.write(
        f"{receipt.request_id} {done}: {receipt.amount} on bill {receipt.bill_id}"
        f" of {receipt.month}{late}\n"
    )
    return 0
