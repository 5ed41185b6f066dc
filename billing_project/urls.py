"""Every address of the service; /livez and /readyz are answered by usage.api.middleware."""

from django.contrib import admin
from django.urls import path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from usage.api.views import UsageView

urlpatterns = [
    re_path(r"^api/v1/usage/?$", UsageView.as_view(), name="usage"),
    re_path(r"^api/schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
