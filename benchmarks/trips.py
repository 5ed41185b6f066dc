"""Counts the calls of our own code on three trips, on SQLite: `python -m benchmarks.trips`.

A short trip is one that a reader can follow: few calls, in few files, with few jumps between them.
A file is entered whenever the call before was in another one. The frames of comprehensions,
generator expressions and lambdas belong to the function around them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import django
from django.http import HttpResponse

from benchmarks.databases import ROOT
from benchmarks.report import table

_OURS = tuple(f"{ROOT / package}{os.sep}" for package in ("usage", "billing_project"))
_INLINE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>"}


class Call(NamedTuple):
    """One call of our own code; `enters` tells that the call before was in another file."""

    file: str
    function: str
    enters: bool


class Trip(NamedTuple):
    """The calls of one trip, in order."""

    name: str
    calls: list[Call]

    def row(self) -> list[str]:
        """Its line of the table."""
        files = {call.file for call in self.calls}
        entries = sum(call.enters for call in self.calls)
        return [self.name, str(len(self.calls)), str(len(files)), str(entries)]

    def lines(self) -> list[str]:
        """Its calls, indented below the name of the file that they enter."""
        return [
            f"{Path(call.file).relative_to(ROOT)}: {call.function}"
            if call.enters
            else f"    {call.function}"
            for call in self.calls
        ]


def traced(name: str, act: Callable[[], object]) -> Trip:
    """Do it and note the calls of our own code in this thread."""
    calls: list[Call] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and _is_ours(frame):
            file = frame.f_code.co_filename
            enters = not calls or calls[-1].file != file
            calls.append(Call(file, frame.f_code.co_name, enters))

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return Trip(name, calls)


def _is_ours(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_filename.startswith(_OURS) and code.co_name not in _INLINE


def trips() -> list[Trip]:
    """Make each trip twice on the database in the settings; trace the second, in a warm process."""
    # Only after django.setup() can models be imported.
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415
    from django.test import Client  # noqa: PLC0415

    from usage.models import ApiKey, Bill, Customer  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    for customer_id in (1, 2, 3):
        Customer.objects.create(id=customer_id, name=f"Customer {customer_id}")
    key = ApiKey.objects.issue(name="trips")[1]
    staff = Client(SERVER_NAME="127.0.0.1")
    staff.force_login(User.objects.create_superuser("staff"))
    # Each customer's first record opens a bill; the traced ones find it open.
    for customer_id in (1, 2, 3):
        _from_the_door(f"first:{customer_id}", customer_id)()
    made = []
    for name, warming, trip in (
        ("new record, from the ledger's door", _from_the_door("a"), _from_the_door("b")),
        ("new record, bytes to bytes", _over_the_wire("c", key), _over_the_wire("d", key)),
        # Of customers without other usage: a bill is closed only with the total that was shown.
        ("close by staff", _close(2, staff), _close(3, staff)),
    ):
        warming()
        made.append(traced(name, trip))
    if Bill.objects.open().exclude(customer=1).exists():
        raise RuntimeError("A bill was not closed, so the figures mean nothing.")
    return made


def _from_the_door(request_id: str, customer_id: int = 1) -> Callable[[], object]:
    from usage.ledger.facts import Fact, Recorded  # noqa: PLC0415
    from usage.ledger.record import record  # noqa: PLC0415

    fact = Fact(request_id, customer_id, "Database Hosting", Decimal(58), Decimal("0.05"))

    def act() -> None:
        (outcome,) = record([fact], reported_by_id=None)
        if not isinstance(outcome, Recorded):
            raise RuntimeError(f"The record was not stored: {outcome}")

    return act


def _over_the_wire(request_id: str, key: str) -> Callable[[], object]:
    from django.test import RequestFactory  # noqa: PLC0415

    from billing_project.wsgi import application  # noqa: PLC0415

    body: dict[str, Any] = {
        "request_id": request_id,
        "customer_id": 1,
        "service": "Database Hosting",
    }
    body |= {"units_consumed": 58, "price_per_unit": "0.05"}
    callers = RequestFactory(SERVER_NAME="127.0.0.1", headers={"Authorization": f"Bearer {key}"})
    environ = callers.post("/api/v1/usage/", body, content_type="application/json").environ
    said = []

    def start(status: str, _headers: object, _exc_info: object = None) -> Any:
        said.append(status)

    def act() -> None:
        with contextlib.closing(cast(HttpResponse, application(environ, start))) as response:
            b"".join(response)
        if said != ["201 Created"]:
            raise RuntimeError(f"The answer was not 201: {said}")

    return act


def _close(customer_id: int, staff: Any) -> Callable[[], object]:
    """Return the POST of the form that asks staff whether to close the customer's bill."""
    from django.urls import reverse  # noqa: PLC0415

    from usage.models import Bill  # noqa: PLC0415

    bill = Bill.objects.get(customer_id=customer_id)
    address = reverse("admin:usage_bill_close", args=[bill.pk])
    form = staff.get(address).content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    return lambda: staff.post(address, hidden)


def main() -> None:
    """Print the table of the trips."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trips", description=__doc__)
    parser.add_argument("--calls", action="store_true", help="print each call as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="billing-trips-") as folder:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "billing_project.settings",
            "DATABASE_URL": f"sqlite:///{folder}/trips.sqlite3",
            "DEBUG": "1",
        }
        django.setup()
        logging.disable(logging.WARNING)  # of the login, and of the folder that is gone at the end
        made = trips()
    lines = table([["trip", "calls", "files", "entries"], *(trip.row() for trip in made)])
    if arguments.calls:
        for trip in made:
            lines += ["", trip.name, *trip.lines()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
