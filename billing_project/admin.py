"""The admin site of staff's pages. Its first page is `usage.admin.overview`."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig


class BillingAdminConfig(AdminConfig):
    """Django's admin with our own site."""

    default_site = "billing_project.admin.BillingSite"


class BillingSite(AdminSite):
    """Django's site with an overview above the list of models."""

    site_header = site_title = "Usage billing"
    index_title = "Overview"
    index_template = "usage/admin/overview.html"
    site_url = None  # there is no other site to view
