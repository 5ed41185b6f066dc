"""The site of staff's pages, whose first page says what needs attention."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest
from django.template.response import TemplateResponse


class BillingAdminConfig(AdminConfig):
    """Django's admin with a site of our own."""

    default_site = "billing_project.admin.BillingSite"


class BillingSite(AdminSite):
    """Django's site with an overview in front of the list of models."""

    site_header = site_title = "Usage billing"
    index_title = "Overview"
    index_template = "usage/admin/overview.html"
    site_url = None  # there is no other site to view

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """Show what needs attention, as far as the user may see it."""
        # What it shows registers with this very site, so that must be there before.
        from usage.admin.overview import overview  # noqa: PLC0415

        return super().index(request, {**overview(request), **(extra_context or {})})
