"""The forms of confirmations."""

from __future__ import annotations

from typing import Any

from django import forms

from usage.validators import REASON_LENGTH


class ReasonField(forms.CharField):
    """A reason of several lines; a line break counts as one character, as browsers count it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            max_length=REASON_LENGTH,
            widget=forms.Textarea(attrs={"rows": 3}),
            help_text=f"Kept in the history. At most {REASON_LENGTH} characters.",
            **options,
        )

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")


class ReasonForm(forms.Form):
    """Why staff do something."""

    reason = ReasonField()


class OptionalReasonForm(forms.Form):
    """Why staff do something, if they say so."""

    reason = ReasonField(required=False)


class CloseForm(OptionalReasonForm):
    """Which total and findings the page showed, and why the bill is closed."""

    expected_total = forms.CharField(widget=forms.HiddenInput, required=False)
    flags = forms.CharField(widget=forms.HiddenInput, required=False)
    is_right = forms.BooleanField(label="This high total is right")

    field_order = ("is_right", "reason")
