"""The admin site of staff's pages. Its first page is `usage.admin.overview`."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.core.management import get_commands
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode


class BillingAdminConfig(AdminConfig):
    """Django's admin with our own site."""

    default_site = "billing_project.admin.BillingSite"


class BillingSite(AdminSite):
    """Django's site with an overview above the list of models."""

    site_header = site_title = "Usage billing"
    index_title = "Overview"
    index_template = "usage/admin/overview.html"
    site_url = None  # there is no other site to view

    def has_permission(self, request: HttpRequest) -> bool:
        """Let in staff, unless named like a command, whose acts the history keeps by its name."""
        is_command = request.user.get_username().casefold() in get_commands()
        return super().has_permission(request) and not is_command

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:  # noqa: FBT001, FBT002 - Django's
        """Let a form that is sent after its session ended come back with the reason typed in."""
        shown = super().admin_view(view, cacheable)

        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            left = not request.user.is_authenticated and request.path != reverse("admin:logout")
            if request.method != "POST" or not left:
                response: HttpResponseBase = shown(request, *args, **kwargs)
                return response
            messages.warning(
                request, "Your session ended; nothing was done. Log in and send it again."
            )
            query = request.GET.copy()
            if reason := request.POST.get("reason"):
                query["reason"] = reason
            address = f"{request.path}?{urlencode(query, doseq=True)}" if query else request.path
            return HttpResponseRedirect(reverse("admin:login", query={"next": address}))

        return update_wrapper(checked, view)
