"""Every address of the service; /livez and /readyz are answered by billing_project.middleware."""

from django.contrib import admin
from django.urls import path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from usage.admin.overview import overview
from usage.api.problems import USAGE_PATH, unknown_address
from usage.api.views import UsageView

# REST framework answers OPTIONS too, but cannot where the answer is a page.
READ_ONLY = {"http_method_names": ["get", "head"]}

urlpatterns = [
    path(USAGE_PATH.strip("/"), UsageView.as_view()),
    path(USAGE_PATH.lstrip("/"), UsageView.as_view(), name="usage"),
    re_path(r"^api/schema/?$", SpectacularAPIView.as_view(**READ_ONLY), name="schema"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(**READ_ONLY), name="docs"),
    re_path(r"^api(?![^/])", unknown_address),
    path("admin/", admin.site.admin_view(overview)),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]

handler500 = "usage.admin.unavailable.crash"
