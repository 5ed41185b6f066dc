"""Exact decimals come back digit for digit on every engine, or are refused by name."""

import datetime as dt
from decimal import Context, Decimal
from typing import Any

import pytest
from django.core.exceptions import FieldError, ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Avg, ExpressionWrapper, F, Max, Min, OuterRef, Q, Subquery, Sum, Value
from django.db.models.functions import Coalesce, Greatest
from django.db.utils import DatabaseError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from usage.database.constraints import CleanText
from usage.database.fields import ExactDecimalField
from usage.database.sums import AmountSum, ExactSum
from usage.models import Bill, Customer, DailyUsage, UsageRecord

pytestmark = pytest.mark.django_db
SQLITE_MOST = 2**63 - 1
WIDE = Context(prec=80)
UNITS = UsageRecord._meta.get_field("units")


@pytest.fixture
def bill(customer: Customer) -> Bill:
    bill: Bill = Bill.objects.create(
        customer=customer,
        month=dt.date(2026, 11, 1),
        period_start=dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
        period_end=dt.datetime(2026, 12, 1, tzinfo=dt.UTC),
    )
    return bill


def day(bill: Bill, number: int, **values: Any) -> DailyUsage:
    row = {"price_per_unit": Decimal(1), "units": Decimal(1), **values}
    date = dt.date(2026, 11, 1) + dt.timedelta(days=number)
    return DailyUsage(
        customer_id=bill.customer_id, bill=bill, service="x", day=date, slot=0, records=1, **row
    )


def stored(bill: Bill, **values: Any) -> DailyUsage:
    """Return a row of daily usage as the database gives it back, on a day of its own."""
    row = day(bill, DailyUsage.objects.count(), **values)
    row.save()
    back: DailyUsage = DailyUsage.objects.get(pk=row.pk)
    return back


# Values


def millionths(number: int) -> Decimal:
    return Decimal(number).scaleb(-6, WIDE)


def decimals(max_digits: int, decimal_places: int) -> st.SearchStrategy[Decimal]:
    most = 10**max_digits - 1
    numbers = st.integers(-most, most) | st.sampled_from([0, 1, -1, most, -most, most - 1])
    return numbers.map(lambda number: Decimal(number).scaleb(-decimal_places, WIDE))


def test_any_units_and_prices_come_back_digit_for_digit(bill: Bill) -> None:
    @settings(deadline=None)
    @given(units=decimals(18, 6), price=decimals(18, 12).map(abs))
    @example(units=Decimal("999999999999.999999"), price=Decimal("999999.999999999999"))
    @example(units=Decimal("-0.000001"), price=Decimal("0.000000000001"))
    def check(units: Decimal, price: Decimal) -> None:
        back = stored(bill, units=units, price_per_unit=price)
        assert (back.units, back.price_per_unit) == (units, price)
        assert back.units.as_tuple().exponent == -6

    check()


def test_numbers_of_30_digits_come_back_or_are_refused_by_name(bill: Bill) -> None:
    @settings(deadline=None)
    @given(units=decimals(30, 6) | st.integers(-SQLITE_MOST, SQLITE_MOST).map(millionths))
    @example(units=Decimal(SQLITE_MOST).scaleb(-6))
    @example(units=Decimal(-SQLITE_MOST).scaleb(-6))
    @example(units=Decimal(SQLITE_MOST + 1).scaleb(-6))
    def check(units: Decimal) -> None:
        if connection.vendor == "sqlite" and abs(units) > Decimal(SQLITE_MOST).scaleb(-6):
            message = "does not fit into SQLite's 64 bits"
            with pytest.raises(ValidationError, match=message), transaction.atomic():
                stored(bill, units=units)
        else:
            assert stored(bill, units=units).units == units

    check()


@pytest.mark.parametrize(
    "value", [1.5, 0.1, True, "abc", "", "1.2.3", [], "NaN", "Infinity"], ids=repr
)
def test_a_number_that_is_not_exact_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        UNITS.to_python(value)


@pytest.mark.parametrize(
    "value", ["0.0000001", "1000000000000", "-1000000000000", "1e12", "1E-7", "1" * 100, 10**13]
)
def test_what_does_not_fit_is_refused_and_never_rounded(value: Any) -> None:
    with pytest.raises(ValidationError, match="fit"):
        UNITS.to_python(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (58, "58.000000"),
        ("58.0", "58.000000"),
        ("1e3", "1000.000000"),
        (Decimal("2.50"), "2.500000"),
    ],
)
def test_exact_numbers_take_the_scale_of_the_field(value: Any, number: str) -> None:
    assert str(UNITS.to_python(value)) == number


def test_a_float_reaches_no_column_and_no_comparison(bill: Bill) -> None:
    with pytest.raises(ValidationError, match=r"^\['0\.5 is not exact"):
        stored(bill, units=0.5)
    for lookup in ({"units": 0.5}, {"units__gt": 0.5}, {"units__in": [0.5]}):
        with pytest.raises(ValidationError, match=r"^\['0\.5 is not exact"):
            list(DailyUsage.objects.filter(**lookup))


def test_a_column_on_sqlite_holds_whole_numbers_of_its_digits_alone(bill: Bill) -> None:
    stored(bill)
    for bad in ("1e19", "units + 9223372036854775807", "'abc'", "1.5"):
        if connection.vendor == "postgresql":
            continue
        with pytest.raises(IntegrityError, match="CHECK"), transaction.atomic():
            execute(f"UPDATE usage_dailyusage SET units = {bad}")


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_a_column_on_postgresql_holds_its_digits_alone(bill: Bill) -> None:
    stored(bill)
    if connection.vendor == "postgresql":
        with pytest.raises(DatabaseError, match="numeric field overflow"), transaction.atomic():
            execute("UPDATE usage_dailyusage SET units = 1e24")


# Comparisons


def test_numbers_are_compared_by_value(bill: Bill) -> None:
    for units in ("9", "10", "-10", "0.000001"):
        stored(bill, units=Decimal(units))

    found = DailyUsage.objects.filter(units__gt=Decimal("0.000001")).order_by("units")
    assert list(found.values_list("units", flat=True)) == [Decimal(9), Decimal(10)]
    assert DailyUsage.objects.filter(units__in=["9", 10]).count() == 2
    assert DailyUsage.objects.filter(units__range=("-10", 9)).count() == 3
    assert DailyUsage.objects.filter(units=F("units")).count() == 4
    assert DailyUsage.objects.aggregate(Max("units"), Min("units")) == {
        "units__max": Decimal(10),
        "units__min": Decimal(-10),
    }


OTHER_SCALES: dict[str, Any] = {
    "column": F("price_per_unit"),
    "product": F("units") * 2,
    "sum with a number": F("units") + 1,
    "sum with a decimal": F("units") + Decimal(1),
    "value": Value(Decimal(1)),
    "function": Coalesce(F("price_per_unit"), F("price_per_unit")),
    "outer column": OuterRef("price_per_unit"),
}


@pytest.mark.parametrize("other", OTHER_SCALES)
@pytest.mark.parametrize("lookup", ["units", "units__gt", "units__lte"])
def test_a_comparison_with_another_scale_is_refused(lookup: str, other: str, bill: Bill) -> None:
    with pytest.raises(FieldError):
        list(DailyUsage.objects.filter(**{lookup: OTHER_SCALES[other]}))


@pytest.mark.parametrize(
    "lookup",
    [
        {"units__in": [F("price_per_unit")]},
        {"units__range": (F("price_per_unit"), 1)},
    ],
    ids=str,
)
def test_a_choice_of_another_scale_is_refused(lookup: dict[str, Any], bill: Bill) -> None:
    with pytest.raises(FieldError):
        list(DailyUsage.objects.filter(**lookup))


def test_a_comparison_with_a_subquery_of_another_scale_is_refused(bill: Bill) -> None:
    price = Subquery(DailyUsage.objects.values("price_per_unit")[:1])
    with pytest.raises(FieldError):
        list(DailyUsage.objects.filter(units__gt=price))


def test_a_choice_among_rows_of_another_scale_is_refused(bill: Bill) -> None:
    for rows in (DailyUsage.objects.values("price_per_unit"), DailyUsage.objects.all()):
        with pytest.raises(FieldError):
            list(DailyUsage.objects.filter(units__in=rows))


def test_a_choice_of_the_same_scale_is_taken(bill: Bill) -> None:
    stored(bill)
    assert DailyUsage.objects.filter(units__in=DailyUsage.objects.values("units")).exists()


# Arithmetic


@pytest.mark.parametrize(
    "expression",
    [
        F("units") + F("units"),
        F("units") - F("units"),
        F("units") * F("price_per_unit"),
        F("units") + F("price_per_unit"),
        F("units") + 1,
        F("units") * 2,
        F("units") / 2,
        F("units") + Decimal(1),
    ],
    ids=str,
)
def test_arithmetic_does_not_guess_its_scale(expression: Any, bill: Bill) -> None:
    stored(bill)
    with pytest.raises(FieldError):
        list(DailyUsage.objects.annotate(result=expression).values_list("result"))


@pytest.mark.parametrize(
    "expression",
    [
        F("units") * F("units"),
        F("units") * F("price_per_unit"),
        F("units") + F("price_per_unit"),
        F("units") + 1,
        F("units") * 2,
        F("units") / 2,
        F("units") + Value(Decimal(1)),
        Greatest(F("units"), F("price_per_unit"), output_field=UNITS),
        Coalesce(F("price_per_unit"), F("price_per_unit"), output_field=UNITS),
    ],
    ids=str,
)
def test_arithmetic_that_mixes_scales_is_refused_also_when_told_one(
    expression: Any, bill: Bill
) -> None:
    stored(bill)
    told = ExpressionWrapper(expression, output_field=UNITS)
    with pytest.raises(FieldError):
        list(DailyUsage.objects.annotate(result=told).values_list("result"))


def test_sums_and_differences_of_one_scale_are_exact(bill: Bill) -> None:
    most = Decimal("999999999999.999999")
    stored(bill, units=most)
    twice = ExpressionWrapper(F("units") + F("units"), output_field=UNITS)
    none = ExpressionWrapper(F("units") - F("units"), output_field=UNITS)

    rows = DailyUsage.objects.annotate(twice=twice, none=none).values_list("twice", "none")

    assert list(rows) == [(2 * most, Decimal(0))]


# Sums over rows


def test_any_sum_is_exact(bill: Bill) -> None:
    most = 10**18 - 1

    @settings(deadline=None)
    @given(st.lists(st.integers(-most, most), max_size=12))
    @example([most] * 12)
    @example([-most] * 12)
    @example([-1, -(10**9), -(10**9) - 1])
    def check(numbers: list[int]) -> None:
        with transaction.atomic():
            rows = [day(bill, at, units=Decimal(n).scaleb(-6)) for at, n in enumerate(numbers)]
            DailyUsage.objects.bulk_create(rows)
            total = DailyUsage.objects.aggregate(total=ExactSum("units"))["total"]
            transaction.set_rollback(True)
        assert total == (Decimal(sum(numbers)).scaleb(-6) if numbers else None)

    check()


def test_sums_beyond_64_bits_are_exact(bill: Bill) -> None:
    most = Decimal(SQLITE_MOST).scaleb(-6)
    DailyUsage.objects.bulk_create([day(bill, number, units=most) for number in range(20)])

    assert DailyUsage.objects.aggregate(total=ExactSum("units"))["total"] == 20 * most
    grouped = DailyUsage.objects.values("service").annotate(total=ExactSum("units"))
    assert grouped.get()["total"] == 20 * most


def test_amounts_are_summed_exactly(bill: Bill) -> None:
    units, prices = st.integers(-SQLITE_MOST, SQLITE_MOST), st.integers(0, 10**18 - 1)

    @settings(deadline=None)
    @given(st.lists(st.tuples(units, prices), max_size=12))
    @example([(SQLITE_MOST, 10**18 - 1)] * 12)
    @example([(-SQLITE_MOST, 10**18 - 1)] * 12)
    @example([(-1, 1), (-(10**9) - 1, 10**9 + 1), (10**9 - 1, 10**9 - 1)])
    def check(numbers: list[tuple[int, int]]) -> None:
        with transaction.atomic():
            DailyUsage.objects.bulk_create(
                day(bill, at, units=Decimal(n).scaleb(-6), price_per_unit=Decimal(p).scaleb(-12))
                for at, (n, p) in enumerate(numbers)
            )
            total = DailyUsage.objects.aggregate(total=AmountSum("units", "price_per_unit"))
            transaction.set_rollback(True)
        exact = sum(units * price for units, price in numbers)
        assert total["total"] == (Decimal(exact).scaleb(-18, WIDE) if numbers else None)

    check()


def test_the_ordinary_sum_is_exact_or_fails(bill: Bill) -> None:
    most = Decimal(SQLITE_MOST).scaleb(-6)
    stored(bill, units=most)
    assert DailyUsage.objects.aggregate(total=Sum("units"))["total"] == most
    stored(bill, units=most)

    if connection.vendor == "sqlite":
        with pytest.raises(DatabaseError, match="integer overflow"), transaction.atomic():
            DailyUsage.objects.aggregate(total=Sum("units"))
    else:
        assert DailyUsage.objects.aggregate(total=Sum("units"))["total"] == 2 * most


@pytest.mark.measured
def test_an_average_is_refused(bill: Bill) -> None:
    for units in (1, 2, 2):
        stored(bill, units=units)
    with pytest.raises(FieldError, match="exact"):
        DailyUsage.objects.aggregate(Avg("units"))


# As a field of Django's


def test_the_scale_is_checked_at_start() -> None:
    class Wrong(models.Model):
        amount = ExactDecimalField(max_digits=2, decimal_places=3)

        class Meta:
            app_label = "usage"
            managed = False

        def __str__(self) -> str:
            return "wrong"

    try:
        (error,) = Wrong._meta.get_field("amount").check()
        assert error.msg == "decimal_places must lie between 0 and max_digits."
    finally:
        del Wrong._meta.apps.all_models["usage"]["wrong"]
        Wrong._meta.apps.clear_cache()


def test_a_good_field_passes_the_checks() -> None:
    assert UNITS.check() == []


def test_it_is_made_again_in_migrations_as_it_was() -> None:
    _, path, args, kwargs = UNITS.deconstruct()
    assert (path, args, kwargs) == (
        "usage.database.fields.ExactDecimalField",
        [],
        {"max_digits": 18, "decimal_places": 6},
    )
    again = ExactDecimalField(**kwargs)
    assert (again.max_digits, again.decimal_places) == (18, 6)


def test_it_is_dumped_in_full(bill: Bill) -> None:
    row = day(bill, 0, units=Decimal("0.000001"))
    assert DailyUsage._meta.get_field("units").value_to_string(row) == "0.000001"
    assert Bill._meta.get_field("closed_total").value_to_string(bill) == ""


def test_a_condition_that_names_its_part_more_than_once_is_checked_before_saving() -> None:
    condition = Q(CleanText(F("service")))

    assert condition.check({"service": "CDN"})
    assert not condition.check({"service": "a\x1bb"})
