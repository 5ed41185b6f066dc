"""API keys: staff issue and revoke them. The text of a key is shown once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from usage.admin import formats, traffic
from usage.admin.actions import ConfirmedAct
from usage.admin.changes import WithHistory
from usage.admin.forms import OptionalReasonForm
from usage.admin.pages import BillingAdmin, OwnPage, ReadOnlyAdmin
from usage.models import ApiKey
from usage.models.api_key import CONTACT_LENGTH, OWNER_LENGTH, FormSentTwice
from usage.validators import validate_name


class IssueForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """Who a key is for. Each form issues one key, however often it is sent."""

    form_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4, required=False)

    class Meta:
        model = ApiKey
        fields = ("name", "owner", "contact")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A command may leave them out; whoever fills in a form knows them.
        for name in ("owner", "contact"):
            self.fields[name].required = True


class OwnerForm(forms.Form):
    """Who answers for a key, and how to reach them. Gives only what its user changed."""

    owner = forms.CharField(
        max_length=OWNER_LENGTH, validators=[validate_name], show_hidden_initial=True
    )
    contact = forms.CharField(
        max_length=CONTACT_LENGTH,
        validators=[validate_name],
        show_hidden_initial=True,
        help_text="An e-mail address or a telephone number, for example.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        return {name: value for name, value in cleaned.items() if name in self.changed_data}


class ChangeOwner(ConfirmedAct):
    """Changes the owner and the contact of a key."""

    template = "usage/admin/api_key_owner.html"
    title = "Change the owner of this key"
    verb = "Save"
    form_class = OwnerForm
    row: ApiKey

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        initial = {"owner": self.row.owner, "contact": self.row.contact}
        return self.page(OwnerForm(initial=initial))

    def context(self) -> dict[str, Any]:
        return {"key": formats.api_key(self.row)}

    def act(self, data: dict[str, Any]) -> None:
        if self.row.change_owner(**data, by=self.request.user):
            messages.success(self.request, "The owner and the contact are saved.")
        else:
            messages.info(self.request, "Nothing was changed.")


class RevokeKey(ConfirmedAct):
    """Revokes a key."""

    template = "usage/admin/api_key_revoke.html"
    title = "Revoke this key?"
    verb = "Revoke the key"
    form_class = OptionalReasonForm
    row: ApiKey

    def refusal(self) -> str:
        return "The key is revoked already." if self.row.is_revoked else ""

    def context(self) -> dict[str, Any]:
        return {"key": formats.api_key(self.row)}

    def act(self, data: dict[str, Any]) -> None:
        if not self.row.revoke(by=self.request.user, reason=data["reason"]):
            messages.info(self.request, "The key was revoked already; nothing was changed.")
            return
        messages.success(self.request, "The key is revoked.")


@admin.register(ApiKey)
class ApiKeyAdmin(WithHistory, ReadOnlyAdmin):
    """Only the answer to the POST that issues a key shows its text."""

    list_display = ("shown_name", "owner", "contact", "prefix", "created", "state")
    list_filter = ()
    search_fields = ("name", "owner", "contact", "prefix")
    search_help_text = "A part of the name, the owner, the contact or the key's public prefix"
    ordering = ("-created_at", "-id")
    page_template = "usage/admin/api_key.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return BillingAdmin.has_add_permission(self, request)

    def own_pages(self) -> list[OwnPage]:
        return [
            ("revoke", "<path:object_id>/revoke/", RevokeKey),
            ("owner", "<path:object_id>/owner/", ChangeOwner),
            ("traffic", "<path:object_id>/traffic/", traffic.TrafficPage),
        ]

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = IssueForm(request.POST if request.method == "POST" else None)
        if not form.is_valid():
            return self.page(
                request, "usage/admin/api_key_issue.html", None, form=form, title="Issue an API key"
            )
        # No redirect: to show the key in the next request, the service would have to keep it.
        try:
            api_key, key = ApiKey.objects.issue(**form.cleaned_data, by=request.user)
        except FormSentTwice as twice:
            messages.error(request, str(twice))
            return HttpResponseRedirect(
                reverse("admin:usage_apikey_change", args=[twice.api_key.pk])
            )
        return self.page(
            request, "usage/admin/api_key_issued.html", api_key, key=key, title="API key issued"
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        return (*self.list_display, *(["last_used"] if traffic.may_see(request) else []))

    def names_of(self, row: ApiKey) -> Sequence[str]:
        return (row.name, row.owner, row.contact)

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        last_used = traffic.last_used(list(rows))
        for api_key in rows:
            api_key.shown_last_used = last_used[api_key.pk]

    @admin.display(description="last used")
    def last_used(self, api_key: Any) -> SafeString:
        return format_html(
            '<a href="{}">{}</a>', traffic.url_of(api_key.pk), api_key.shown_last_used
        )

    @admin.display(description="name")
    def shown_name(self, api_key: ApiKey) -> SafeString:
        return formats.name(api_key.name)

    @admin.display(description="created")
    def created(self, api_key: ApiKey) -> SafeString:
        return formats.moment(api_key.created_at)

    @admin.display(description="state")
    def state(self, api_key: ApiKey) -> SafeString:
        if api_key.is_revoked:
            return formats.badge("revoked", "quiet")
        return formats.badge("live", "good")

    def row_name(self, row: ApiKey) -> str:
        return f"API key {row.prefix}"

    def page_context(self, request: HttpRequest, row: ApiKey) -> dict[str, Any]:
        return {
            "name": formats.name(row.name),
            "owner": formats.name(row.owner or "–"),
            "contact": formats.name(row.contact or "–"),
            "state": self.state(row),
            "records_url": reverse(
                "admin:usage_usagerecord_changelist", query={"reported_by": row.pk}
            ),
            "traffic_url": traffic.url_of(row.pk) if traffic.may_see(request) else None,
            "last_used": traffic.last_used([row])[row.pk],
            "created_at": formats.moment(row.created_at),
            "revoked_at": formats.moment(row.revoked_at) if row.revoked_at else None,
        }
