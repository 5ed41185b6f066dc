"""How many digits each currency has after the point: its minor unit, as ISO 4217 lists it."""

from __future__ import annotations

from iso4217 import Currency

# By code, for every currency of ISO's List One that has a minor unit. A bill keeps the digits it
# was opened with, so that a newer list changes no bill.
ISO_DIGITS = {
    currency.code: currency.exponent for currency in Currency if currency.exponent is not None
}

# The digits that are not 2 in CLDR as Babel 2.18.0 has it. Bills that were closed before a bill
# kept its digits were rounded to these, so nothing here may ever change.
_CLDR_DIGITS = {
    code: digits
    for digits, codes in {
        0: (
            "ADP AFN ALL BIF BYR CLP DJF ESP GNF IQD IRR ISK ITL JPY KMF KPW KRW LAK LBP LUF MGA"
            " MGF MMK MRO PYG RSD RWF SLL SOS STD SYP TMM TRL UGX UYI VND VUV XAF XOF XPF YER ZMK"
            " ZWD"
        ),
        3: "BHD JOD KWD LYD OMR TND",
        4: "CLF UYW",
    }.items()
    for code in codes.split()
}


def digits_sql(column: str) -> str:
    """Return the SQL of `digits_of` the currency in a column."""
    known = {code: digits_of(code) for code in sorted({*ISO_DIGITS, *_CLDR_DIGITS})}
    cases = [f"WHEN '{code}' THEN {digits}" for code, digits in known.items() if digits != 2]
    return f"CASE {column} {' '.join(cases)} ELSE 2 END"


def cldr_digits(code: str) -> int:
    """Return the digits to which bills were rounded before a bill kept its own."""
    return _CLDR_DIGITS.get(code, 2)


def digits_of(code: str) -> int:
    """Return the digits of a currency now; customers may still have one that ISO does not list."""
    return ISO_DIGITS.get(code, cldr_digits(code))
