"""`manage.py import_customers` brings in the whole file or nothing, and says what it did."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from usage.database.transactions import DatabaseUnavailable
from usage.ledger.record import record
from usage.management.commands import import_customers
from usage.models import Customer
from usage.tests.factories import CustomerFactory, FactFactory

pytestmark = pytest.mark.django_db
Printed = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "customers.csv"


def stored() -> dict[int, tuple[str, str]]:
    return {c.id: (c.name, c.currency) for c in Customer.objects.all()}


def test_customers_are_added_renamed_and_left_alone(file: Path, capsys: Printed) -> None:
    for number in (1, 2, 3):
        CustomerFactory.create(id=number, name=f"Old {number}", currency="EUR")
    file.write_text("id,name,currency\n1,New 1,EUR\n2,Old 2,EUR\n4,Zoë GmbH,JPY\n5,Plain,\n")

    call_command("import_customers", file)

    assert stored() == {
        1: ("New 1", "EUR"),
        2: ("Old 2", "EUR"),
        3: ("Old 3", "EUR"),
        4: ("Zoë GmbH", "JPY"),
        5: ("Plain", "USD"),
    }
    assert (
        capsys.readouterr().out
        == "added 2, renamed 1, changed currency 0, changed reference 0, unchanged 1\n"
    )


def test_the_same_file_again_changes_nothing(file: Path, capsys: Printed) -> None:
    file.write_text("id,name\n1,Alice\n2,Bob\n")
    call_command("import_customers", file)
    call_command("import_customers", file)

    assert capsys.readouterr().out.endswith(
        "added 0, renamed 0, changed currency 0, changed reference 0, unchanged 2\n"
    )


def test_a_file_without_currencies_changes_none(file: Path) -> None:
    CustomerFactory.create(id=1, name="Old", currency="EUR")
    file.write_text("name,id\nNew,1\n")

    call_command("import_customers", file)

    assert stored() == {1: ("New", "EUR")}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(encoding: str, newline: str, file: Path) -> None:
    lines = ["id, name ,currency", '7,"Smith, ""Ann"" & Söhne",USD', "", " 8 , Bob ,EUR"]
    file.write_bytes(newline.join(lines).encode(encoding))

    call_command("import_customers", file)

    assert stored() == {7: ('Smith, "Ann" & Söhne', "USD"), 8: ("Bob", "EUR")}


def test_every_bad_line_is_named_and_nothing_is_imported(file: Path, capsys: Printed) -> None:
    CustomerFactory.create(id=1, name="Old", currency="EUR")
    bad = {
        3: "x,No id,USD",
        4: "0,Zero,USD",
        5: "9223372036854775808,Too large,USD",
        6: "3,,USD",
        7: f"4,{'n' * 201},USD",
        8: "5,Dollar,dollar",
        9: "6,Short",
        10: "2,Twice,USD",
        11: "7,Nu\0ll,USD",
        12: "-8,Negative,USD",
        13: "1_0,Underscore,USD",
        14: "٣,Arabic three,USD",
        15: "9,,euro",
        16: "11,Smith, Ann,USD",
    }
    file.write_text("\n".join(["id,name,currency", "2,Good,USD", *bad.values(), "10,Good,USD"]))

    with pytest.raises(CommandError, match=r"15 mistakes: correct them, nothing was imported\.$"):
        call_command("import_customers", file)

    named = [int(line.split(":")[0].removeprefix("line ")) for line in errors(capsys)]
    assert named == sorted([*bad, 15])
    assert stored() == {1: ("Old", "EUR")}


def errors(capsys: Printed) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "name",
    [
        "Last\nClosed bill 99 of Nobody (1), 2026-10: 0.00 USD",
        "Re\rturn",
        "Esc\x1b[2J",
        "Gninrut \u202egnirutset",
        "Zero\u200bwidth",
        "Line\u2028separator",
        "Paragraph\u2029separator",
        "Next\x85line",
    ],
)
def test_a_name_that_could_forge_a_line_is_refused(name: str, file: Path, capsys: Printed) -> None:
    file.write_text(f'id,name\n1,"{name}"\n2,Good\n', newline="")

    with pytest.raises(CommandError, match="nothing was imported"):
        call_command("import_customers", file)

    (said,) = errors(capsys)
    assert "name: A name has no spaces around it and no control, format," in said
    assert stored() == {}


def test_a_reason_says_what_is_wrong(file: Path, capsys: Printed) -> None:
    file.write_text("id,name,currency\n1,Alice,USD\nx,Bob,USD\n2,Eve\n1,Again,USD\n3,Ann,usd\n")

    with pytest.raises(CommandError):
        call_command("import_customers", file)

    assert errors(capsys) == [
        "line 3: the id 'x' is not a positive whole number.",
        "line 4: it has 2 values where the first line has 3.",
        "line 5: customer 1 is on line 2 already.",
        (
            "line 6: currency: 'usd' is not a currency with a minor unit in ISO 4217: give a"
            " three-letter code in capitals, such as USD."
        ),
    ]


def test_the_currency_of_bills_is_not_changed(
    file: Path, customer: Customer, capsys: Printed
) -> None:
    record([FactFactory.build()], reported_by_id=None)
    file.write_text("id,name,currency\n1,New,USD\n123,Alice B.,EUR\n")

    with pytest.raises(CommandError, match="nothing was imported"):
        call_command("import_customers", file)

    assert errors(capsys) == [
        "line 3: customer 123 has bills in another currency: make a new customer."
    ]
    assert stored() == {123: ("Alice", "USD")}


def test_a_customer_with_bills_is_renamed(file: Path, customer: Customer) -> None:
    record([FactFactory.build()], reported_by_id=None)
    file.write_text("id,name,currency\n123,Alice B.,USD\n")

    call_command("import_customers", file)

    assert stored() == {123: ("Alice B.", "USD")}


def test_the_currency_of_a_customer_without_bills_is_changed(
    file: Path, customer: Customer, capsys: Printed
) -> None:
    file.write_text("id,name,currency\n123,Alice B.,EUR\n")

    call_command("import_customers", file)

    assert stored() == {123: ("Alice B.", "EUR")}
    assert (
        capsys.readouterr().out
        == "added 0, renamed 0, changed currency 1, changed reference 0, unchanged 0\n"
    )


def test_a_bad_line_in_a_later_chunk_undoes_the_earlier(
    file: Path, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_customers, "_CUSTOMERS_AT_ONCE", 1)
    record([FactFactory.build()], reported_by_id=None)
    file.write_text("id,name,currency\n1,New,USD\n123,Alice,EUR\n")

    with pytest.raises(CommandError):
        call_command("import_customers", file)

    assert stored() == {123: ("Alice", "USD")}


def test_a_file_that_takes_minutes_is_imported_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_customers, "_CUSTOMERS_AT_ONCE", 1)
    minutes = itertools.count(step=60)
    monkeypatch.setattr("usage.database.transactions.time.monotonic", lambda: float(next(minutes)))
    file.write_text("id,name\n1,Alice\n2,Bob\n")

    call_command("import_customers", file)

    assert stored() == {1: ("Alice", "USD"), 2: ("Bob", "USD")}


@pytest.mark.parametrize(
    "content",
    [b"", b"id\n1\n", b"id;name\n1;Alice\n", b"id,name,nmae\n", b"id,name,name\n", b"1,Alice\n"],
)
def test_a_file_with_another_header_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)

    with pytest.raises(CommandError, match=r"^The first line must be id,name"):
        call_command("import_customers", file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,name\n1,Zo\xeb\n", "is not in UTF-8"),
        (b'id,name\n1,"Alice\n', "is not CSV from line 2 on"),
        (b'id,name\n1,"Ali"ce\n', "is not CSV from line 2 on"),
    ],
)
def test_a_file_that_is_not_csv_is_refused(content: bytes, message: str, file: Path) -> None:
    file.write_bytes(content)

    with pytest.raises(CommandError, match=message):
        call_command("import_customers", file)
    assert stored() == {}


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(CommandError, match=r"customers\.csv cannot be read: No such file"):
        call_command("import_customers", file)


def test_a_database_that_is_away_is_not_a_refusal(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(rows: object) -> None:
        raise DatabaseUnavailable("The database could not take the transaction.")

    monkeypatch.setattr(import_customers, "_store", unavailable)
    file.write_text("id,name\n1,Alice\n")

    # manage.py says so in a sentence, and ends with 2. Whether a commit went through is not known.
    with pytest.raises(DatabaseUnavailable):
        call_command("import_customers", file)


def test_customers_are_locked_in_order_of_their_ids_whatever_becomes_of_them(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_customers, "_CUSTOMERS_AT_ONCE", 3)
    for number in (1, 3, 4):
        CustomerFactory.create(id=number, name=f"Old {number}", currency="EUR")
    bulk_create = Customer.objects.bulk_create
    written: list[int] = []

    def watched(customers: Sequence[Customer], **options: Any) -> list[Customer]:
        written.extend(customer.id for customer in customers)
        return bulk_create(customers, **options)

    monkeypatch.setattr(Customer.objects, "bulk_create", watched)
    file.write_text("id,name,currency\n5,New,USD\n4,Old 4,USD\n3,Old 3,EUR\n2,New,USD\n1,Re,EUR\n")

    call_command("import_customers", file)

    assert written == [1, 2, 4, 5]


def test_a_chunk_costs_a_few_queries_whatever_is_in_it(file: Path) -> None:
    def queries(count: int, name: str) -> int:
        file.write_text("id,name\n" + "".join(f"{n},{name}\n" for n in range(1, count + 1)))
        with CaptureQueriesContext(connection) as captured:
            call_command("import_customers", file)
        return len(captured)

    assert queries(1000, "New") == queries(1000, "Renamed") <= 30


def test_a_customer_keeps_a_currency_that_is_refused_for_new_ones(
    file: Path, capsys: Printed
) -> None:
    CustomerFactory.create(id=1, name="Old", currency="XAU")
    file.write_text("id,name,currency\n1,New,XAU\n2,Bob,XAU\n")

    with pytest.raises(CommandError):
        call_command("import_customers", file)

    (refusal,) = errors(capsys)
    assert refusal.startswith("line 3: currency: 'XAU' is not a currency with a minor unit")

    file.write_text("id,name,currency\n1,New,XAU\n")
    call_command("import_customers", file)
    assert Customer.objects.get().name == "New"
