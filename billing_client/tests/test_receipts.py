from __future__ import annotations

import pickle
from copy import copy

import pytest

from billing_client import (
    BillingError,
    ConflictError,
    CustomerNotFoundError,
    FieldError,
    Receipt,
    Receipts,
    ValidationError,
)


def rejected(request_id: str, error: BillingError) -> Receipt:
    error.request_ids = (request_id,)
    return Receipt(request_id, "rejected", error=error)


def missing_customer() -> CustomerNotFoundError:
    return CustomerNotFoundError(
        "Unknown customer.", status_code=404, code="unknown_customer", attempts=2
    )


def test_receipts_are_a_list_with_views() -> None:
    receipts = Receipts(
        [Receipt("a", "created"), Receipt("b", "replayed"), rejected("c", missing_customer())]
    )
    assert [receipt.request_id for receipt in receipts] == ["a", "b", "c"]
    assert (receipts.created, receipts.replayed, receipts.rejected) == (
        [receipts[0]],
        [receipts[1]],
        [receipts[2]],
    )


def test_nothing_is_raised_where_nothing_was_rejected() -> None:
    Receipts([Receipt("a", "created"), Receipt("b", "replayed")]).raise_for_rejected()
    Receipts().raise_for_rejected()


def test_rejections_of_one_kind_raise_that_kind() -> None:
    receipts = Receipts(
        [
            Receipt("a", "created"),
            rejected("b", missing_customer()),
            rejected("c", missing_customer()),
        ]
    )
    with pytest.raises(
        CustomerNotFoundError, match=r"2 of 3 usage records were rejected \(b, c\); the first: Unk"
    ) as caught:
        receipts.raise_for_rejected()
    error = caught.value
    assert (error.request_ids, error.status_code, error.code) == (
        ("b", "c"),
        404,
        "unknown_customer",
    )
    assert (error.attempts, error.ambiguous, error.receipts) == (2, False, receipts)


def test_rejections_of_several_kinds_claim_none_of_them() -> None:
    conflict = ConflictError("Taken.", conflicting_fields=["service"])
    conflict.status_code = 409
    with pytest.raises(BillingError) as caught:
        Receipts([rejected("a", missing_customer()), rejected("b", conflict)]).raise_for_rejected()
    assert type(caught.value) is BillingError
    assert (caught.value.status_code, caught.value.code) == (None, None)


def test_the_summary_names_all_fields_at_fault() -> None:
    faults = [
        FieldError("service", "invalid", "empty"),
        FieldError("units_consumed", "invalid", "0"),
    ]
    receipts = Receipts(rejected("a", ValidationError("No.", fields=[fault])) for fault in faults)
    with pytest.raises(ValidationError) as caught:
        receipts.raise_for_rejected()
    assert caught.value.fields == tuple(faults)


def test_the_summary_names_each_conflicting_field_once() -> None:
    names = [["service"], ["service", "customer_id"]]
    receipts = Receipts(
        rejected("a", ConflictError("Taken.", conflicting_fields=each)) for each in names
    )
    with pytest.raises(ConflictError) as caught:
        receipts.raise_for_rejected()
    assert caught.value.conflicting_fields == ("service", "customer_id")


def test_one_ambiguous_rejection_makes_the_summary_ambiguous() -> None:
    unsure = missing_customer()
    unsure.ambiguous = True
    with pytest.raises(CustomerNotFoundError) as caught:
        Receipts([rejected("a", missing_customer()), rejected("b", unsure)]).raise_for_rejected()
    assert caught.value.ambiguous is True


def test_the_summary_names_the_first_ids() -> None:
    receipts = Receipts(rejected(name, missing_customer()) for name in "abcde")
    with pytest.raises(CustomerNotFoundError, match=r"\(a, b, c and 2 more\)"):
        receipts.raise_for_rejected()


def test_slices_sums_and_copies_are_receipts_too() -> None:
    receipts = Receipts([Receipt("a", "created"), rejected("b", missing_customer())])
    for kept in (receipts[:], receipts[1:], receipts + receipts, receipts.copy(), copy(receipts)):
        assert isinstance(kept, Receipts)
        assert len(kept.rejected) >= 1
    assert receipts[0].request_id == "a"
    assert isinstance(receipts.rejected, Receipts)


def test_the_repr_is_short() -> None:
    receipts = Receipts(Receipt(f"n{n}", "created") for n in range(500))
    assert repr(receipts) == "<Receipts: 500 created, 0 replayed, 0 rejected>"
    assert repr(Receipts([rejected("a", missing_customer())])) == (
        "<Receipts: 0 created, 0 replayed, 1 rejected: a>"
    )


def test_receipts_survive_a_pickle() -> None:
    receipts = Receipts([Receipt("a", "created"), rejected("c", missing_customer())])
    again = pickle.loads(pickle.dumps(receipts))
    assert isinstance(again, Receipts)
    assert again == receipts
