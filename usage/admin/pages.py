"""The parts that all pages of staff share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from django.views.generic import View

from usage.admin.paging import KeysetChangeList, UncountedPaginator

# The name and the address of a page, and its view: a class of Django's or a method.
OwnPage = tuple[str, str, type[View] | Callable[..., HttpResponseBase]]


def column(name: str, description: str) -> Callable[[Any], Any]:
    """Return a column of a list: one of the cells that `prepare` made of its rows."""

    @admin.display(description=description)
    def cell(row: Any) -> Any:
        return row.cells[name]

    cell.__name__ = name  # the name of the column's CSS class
    return cell


class BillingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only in the stubs
    """Lists that cost the same at any number of rows; rows are never deleted."""

    actions = None
    empty_value_display = "–"
    list_per_page = 40  # keeps a page below 60 kB
    paginator = UncountedPaginator
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()

    changelist_class = KeysetChangeList
    # The name of the list's export, if it has one.
    export_name = ""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return self.changelist_class

    def get_urls(self) -> list[URLPattern]:
        model, urls = f"{self.opts.app_label}_{self.opts.model_name}", []
        for name, address, page in self.own_pages():
            view = page.as_view(model_admin=self) if hasattr(page, "as_view") else page
            urls.append(path(address, self.admin_site.admin_view(view), name=f"{model}_{name}"))
        return [*urls, *super().get_urls()]

    def own_pages(self) -> list[OwnPage]:
        """Return the pages beside those of Django."""
        return []

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        title = capfirst(self.opts.verbose_name_plural)
        context = {"title": title, "export_name": self.export_name}
        response = super().changelist_view(request, {**context, **(extra_context or {})})
        shown = getattr(response, "context_data", None) or {}
        if "cl" in shown:
            shown["summary"] = shown["cl"].summary()
            if shown["cl"].refusal:
                messages.error(request, shown["cl"].refusal)
                response.status_code = HTTPStatus.BAD_REQUEST
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["list_filters"] = request.GET.get("_changelist_filters", "")
        return super().render_change_form(request, context, *args, **kwargs)

    def names_of(self, row: Any) -> Sequence[str]:
        """Return the texts of a row that others chose, which may be long."""
        return ()

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        """Read at once the values of all rows of a page, and set their `cells`."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Allow the filters of the list; any other would read every row."""
        return lookup in {list_filter.parameter_name for list_filter in self.list_filter}  # type: ignore[union-attr]  # all are SimpleListFilter

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def _get_obj_does_not_exist_redirect(
        self, request: HttpRequest, opts: Any, object_id: str
    ) -> HttpResponse:
        # Django leads to the first page and supposes that the row was deleted.
        raise Http404(f"There is no {opts.verbose_name} with this id.")

    def may_act(self, request: HttpRequest) -> bool:
        """Tell whether the user may act on rows of this model."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def row(self, request: HttpRequest, object_id: str) -> Any:
        """Return the row with this id; raises PermissionDenied or Http404."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404(f"There is no {self.opts.verbose_name} with this id.")
        return row

    def row_name(self, row: Any) -> str:
        """Return the title of a row's page."""
        return f"{capfirst(self.opts.verbose_name)} {row.pk}"

    def page_name(self, row: Any) -> str:
        """Return what a browser calls the page of a row in its tabs and its history."""
        return self.row_name(row)

    def row_url(self, row: Any) -> str:
        """Return the address of a row's page."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[quote(row.pk)])

    def url_back(self, request: HttpRequest, row: Any) -> str:
        """Return the address of a row's page, with the filters of the list a user came from."""
        return self.row_url(row) + self.kept_filters(request)

    def kept_filters(self, request: HttpRequest) -> str:
        """Return the part of an address that keeps the filters of the list a user came from."""
        filters = self.get_preserved_filters(request)
        return f"?{filters}" if filters else ""

    def page(
        self, request: HttpRequest, template: str, row: Any, **context: Any
    ) -> TemplateResponse:
        """Return a page of the admin about `row`."""
        return TemplateResponse(
            request,
            template,
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "original": row,
                "media": self.media,
                "may_act": self.may_act(request),
                "page_name": self.page_name(row) if row else "",
                "kept_filters": self.kept_filters(request),
                "list_filters": request.GET.get("_changelist_filters", ""),
                **context,
            },
        )


class ReadOnlyAdmin(BillingAdmin):
    """Rows shown on a page without a form; changes are acts behind a confirmation."""

    page_template: str

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        row = self.row(request, object_id)
        context = {"title": self.row_name(row), **self.page_context(request, row)}
        return self.page(request, self.page_template, row, **context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to the row's own page: Django's history knows none of its changes."""
        return HttpResponseRedirect(f"{self.row_url(self.row(request, object_id))}#history")

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return the values that the page of a row shows."""
        return {}


class AdminPage(View):
    """A page beside an admin's lists, for users who may view its rows."""

    http_method_names = ["get", "head"]

    model_admin: ReadOnlyAdmin = None  # type: ignore[assignment]  # given to as_view()

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.model_admin.has_view_permission(request):
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)
