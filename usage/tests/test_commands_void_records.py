"""`manage.py void_records` voids many records in chunks, and can be killed and run again."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from usage.ledger import bulk_void
from usage.ledger.close import close
from usage.ledger.void import VoidRefused, void
from usage.management.commands import void_records
from usage.models import ApiKey, Bill, Customer, HistoryEntry, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import report

pytestmark = pytest.mark.django_db

REASON = ("--reason", "Counted twice.")


@pytest.fixture
def key(customer: Customer, database_clock: DatabaseClock) -> ApiKey:
    """A key that reported seven wrong records on a closed and an open bill of two customers."""
    api_key, _ = ApiKey.objects.issue(name="CDN")
    other = CustomerFactory.create(currency="JPY")
    database_clock.set("2026-10-10T12:00:00Z")
    bill = report(3, reported_by=api_key)
    report(request_id="right")
    database_clock.set("2026-11-10T12:00:00Z")
    close(bill, by="Sam")
    report(2, reported_by=api_key)
    report(2, reported_by=api_key, customer_id=other.pk, units=Decimal(100))
    return api_key


def voided() -> int:
    return len(UsageRecord.objects.filter(voids__isnull=False))


def void_by(key: ApiKey, *options: str) -> None:
    call_command("void_records", "--key", f"{key.pk}", *REASON, *options)


def test_without_apply_it_says_what_it_would_void(
    key: ApiKey, capsys: pytest.CaptureFixture[str]
) -> None:
    void_by(key)

    assert capsys.readouterr().out == (
        "7 records to void, 10 JPY, 14.5 USD, on 2 open bills and 1 closed bill.\n"
        "Nothing was voided. Add --apply to void them.\n"
    )
    assert voided() == 0


def test_each_record_is_voided_and_closed_bills_stay(key: ApiKey) -> None:
    closed = Bill.objects.closed().get()

    void_by(key, "--apply")

    assert voided() == 7
    closed.refresh_from_db()
    assert closed.total == Decimal("11.60")
    # The right record is on the closed bill; the open one carries the credit of the other three.
    assert Bill.objects.open().get(customer=123).total == Decimal("-8.70")
    assert UsageRecord.objects.get(pk="right").void_record is None


def test_each_bill_gets_one_history_entry(key: ApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(void_records, "CHUNK", 2)

    void_by(key, "--apply")

    entries = HistoryEntry.objects.filter(action="bulkvoid")
    assert sorted(entry.bill_id for entry in entries) == sorted(
        Bill.objects.values_list("pk", flat=True)
    )
    assert {(entry.actor, entry.reason) for entry in entries} == {
        ("void_records", "Counted twice.")
    }
    assert entries[0].detail.startswith("7 records in all; selection up to 2026-11-10 12:00:00.000")


def test_a_run_that_was_killed_is_run_again(
    key: ApiKey, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(void_records, "CHUNK", 2)
    chunks = 0

    def killed(*values: Any, **others: Any) -> int:
        nonlocal chunks
        if (chunks := chunks + 1) > 1:
            raise KeyboardInterrupt
        return bulk_void.void_all(*values, **others)

    monkeypatch.setattr(void_records, "void_all", killed)
    with pytest.raises(KeyboardInterrupt):
        void_by(key, "--apply")
    assert voided() == 2
    monkeypatch.setattr(void_records, "void_all", bulk_void.void_all)

    void_by(key, "--apply")

    assert voided() == 7
    assert "5 records to void" in capsys.readouterr().out


def test_voided_records_and_voids_are_left_out(
    key: ApiKey, capsys: pytest.CaptureFixture[str]
) -> None:
    void(UsageRecord.objects.filter(reported_by=key).earliest("request_id"), reason="x", by="Sam")

    void_by(key)

    assert capsys.readouterr().out.startswith("6 records to void")


def test_a_file_of_ids_is_voided(
    key: ApiKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(void_records, "_IDS_AT_ONCE", 2)
    file = tmp_path / "ids.txt"
    wrong = UsageRecord.objects.filter(reported_by=key).values_list("pk", flat=True)
    file.write_text("\n".join([*wrong[:3], wrong[0], ""]))

    call_command("void_records", "--ids", f"{file}", *REASON, "--apply")

    assert voided() == 3


def test_an_unknown_id_stops_it_before_the_first_void(key: ApiKey, tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("right\nnowhere\n")

    with pytest.raises(CommandError, match="1 request_id that no record has; the first is 'nowh"):
        call_command("void_records", "--ids", f"{file}", *REASON, "--apply")

    assert voided() == 0


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--customer", "123"], 6),
        (["--service", "Database Hosting", "--price", "0.05"], 8),
        (["--service", "Other"], 0),
        (["--from", "2026-10-10", "--to", "2026-10-10"], 4),
        (["--recorded-from", "2026-11-10"], 4),
        (["--recorded-to", "2026-11-09"], 4),
        (["--late"], 0),
    ],
)
def test_filters_choose_the_records(
    key: ApiKey, options: list[str], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("void_records", *options, *REASON)

    assert capsys.readouterr().out.startswith(f"{count} records to void")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Say which records to void"),
        (["--price", "x"], "'x' is not a unit price"),
        (["--customer", "9223372036854775808"], "'9223372036854775808' is not an id"),
        (["--from", "soon"], "'soon' is not a day. Use YYYY-MM-DD."),
        (["--ids", "nowhere.txt"], "nowhere.txt cannot be read: No such file or directory."),
        (["--to", "9999-12-31"], "'9999-12-31' is not a day"),
        (
            ["--late", "--csv", "nowhere/ids.csv", "--apply"],
            "cannot be written: No such file",
        ),
    ],
)
def test_what_is_malformed_is_named(key: ApiKey, options: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("void_records", *options, *REASON)


@pytest.mark.parametrize("apply", [(), ("--apply",)], ids=["a dry run", "with --apply"])
@pytest.mark.parametrize("reason", ["", " ", "x" * 501], ids=["empty", "space", "too long"])
def test_a_reason_that_does_not_fit_is_refused_at_once(
    key: ApiKey, reason: str, apply: tuple[str, ...]
) -> None:
    with pytest.raises(CommandError, match=r"Nothing was voided\. Give a reason of 1 to 500"):
        call_command("void_records", "--key", f"{key.pk}", "--reason", reason, *apply)

    assert voided() == 0


def test_records_without_room_for_a_void_end_the_run(
    key: ApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> int:
        raise VoidRefused("No room.")

    monkeypatch.setattr("usage.management.commands.void_records.void_all", refuse)

    with pytest.raises(CommandError, match=r"Stopped after 0 voids: No room\."):
        call_command("void_records", "--key", f"{key.pk}", *REASON, "--apply")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"cdn:1\0\n", "1 request_id that no record has"), (b"cdn:\xe9\n", "more than request_ids")],
)
def test_a_file_of_anything_but_ids_is_refused(
    content: bytes, message: str, tmp_path: Path, key: ApiKey
) -> None:
    (tmp_path / "ids").write_bytes(content)

    with pytest.raises(CommandError, match=message):
        call_command("void_records", "--ids", f"{tmp_path / 'ids'}", *REASON, "--apply")


def test_the_ids_are_written_for_the_team(key: ApiKey, tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"

    void_by(key, "--csv", f"{file}")

    assert len(file.read_text().splitlines()) == 8
    assert file.read_text().startswith("request_id\n")
