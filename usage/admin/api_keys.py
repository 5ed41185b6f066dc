"""API keys: staff issue and revoke them. The text of a key is shown once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from usage.admin import formats, traffic
from usage.admin.actions import ConfirmedAct
from usage.admin.pages import BillingAdmin, ReadOnlyAdmin
from usage.models import ApiKey


class IssueForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """Who a key is for."""

    class Meta:
        model = ApiKey
        fields = ("name",)


class RevokeKey(ConfirmedAct):
    """Revokes a key."""

    template = "usage/admin/api_key_revoke.html"
    title = "Revoke this key?"
    row: ApiKey

    def refusal(self) -> str:
        return "The key is revoked already." if self.row.is_revoked else ""

    def context(self) -> dict[str, Any]:
        return {"key": formats.api_key(self.row)}

    def act(self, data: dict[str, Any]) -> None:
        if not self.row.revoke():
            messages.info(self.request, "The key was revoked already; nothing was changed.")
            return
        self.log(self.row, "Revoked.")
        messages.success(self.request, "The key is revoked.")


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Only the answer to the POST that issues a key shows its text."""

    list_display = ("shown_name", "prefix", "created", "state")
    list_filter = ()
    search_fields = ("name", "prefix")
    search_help_text = "A part of the name, or of the key's public prefix"
    ordering = ("-created_at", "-id")
    page_template = "usage/admin/api_key.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return BillingAdmin.has_add_permission(self, request)

    def get_urls(self) -> list[URLPattern]:
        revoke = self.admin_site.admin_view(RevokeKey.as_view(model_admin=self))
        page = self.admin_site.admin_view(traffic.TrafficPage.as_view(model_admin=self))
        return [
            path("<path:object_id>/revoke/", revoke, name="usage_apikey_revoke"),
            path("<path:object_id>/traffic/", page, name="usage_apikey_traffic"),
            *super().get_urls(),
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
        api_key, key = ApiKey.objects.issue(name=form.cleaned_data["name"])
        self.log_addition(request, api_key, "Issued.")
        return self.page(
            request, "usage/admin/api_key_issued.html", api_key, key=key, title="API key issued"
        )

    def get_list_display(self, request: HttpRequest) -> Any:
        return (*self.list_display, *(["last_used"] if traffic.may_see(request) else []))

    def names_of(self, row: ApiKey) -> Sequence[str]:
        return (row.name,)

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
            "state": self.state(row),
            "records_url": reverse(
                "admin:usage_usagerecord_changelist", query={"reported_by": row.pk}
            ),
            "traffic_url": traffic.url_of(row.pk) if traffic.may_see(request) else None,
            "last_used": traffic.last_used([row])[row.pk],
            "created_at": formats.moment(row.created_at),
            "revoked_at": formats.moment(row.revoked_at) if row.revoked_at else None,
        }
