"""Acts of staff on one row: a page that says what will happen, and the POST that does it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.views.generic import View

from usage.admin.pages import ReadOnlyAdmin
from usage.database.transactions import DatabaseUnavailable
from usage.ledger.close import CloseRefused
from usage.ledger.hold import HoldRefused
from usage.ledger.void import VoidRefused
from usage.models.base import ActorRefused

REFUSALS = (CloseRefused, HoldRefused, VoidRefused, ActorRefused)


class AskAgain(Exception):
    """The page showed something that is no longer so: nothing was changed, and it is shown anew."""


class ConfirmedAct(View):
    """An act to confirm. A GET shows the page; a POST acts and goes back to the row's page."""

    http_method_names = ["get", "head", "post"]

    model_admin: ReadOnlyAdmin = None  # type: ignore[assignment]  # given to as_view()
    template: str
    title: str
    verb: str  # on the button
    form_class: type[forms.Form] = forms.Form

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        self.row = self.model_admin.row(request, kwargs["object_id"])
        if not self.may_act():
            raise PermissionDenied
        return super().dispatch(request, *args, **kwargs)

    def may_act(self) -> bool:
        """Tell whether the user, who may see the row, may act on it."""
        return self.model_admin.may_act(self.request)

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        # The reason typed in before a session ended is in the address after the login.
        return self.page(self.form(initial={"reason": request.GET.get("reason", "")}))

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        form = self.form(data=request.POST)
        if not form.is_valid():
            return self.page(form)
        try:
            self.act(form.cleaned_data)
        except AskAgain as again:
            messages.warning(request, f"Nothing was changed. {again} Look again, then confirm.")
            return self.page(self.form(initial={"reason": form.cleaned_data["reason"]}))
        except REFUSALS as refusal:
            # The sentence may begin with a request_id, whose first letter the admin would
            # capitalise.
            messages.error(request, f"Nothing was changed: {refusal}")
        except DatabaseUnavailable:
            messages.error(
                request,
                "The database does not answer. Whether this was done is not known: look before you"
                " try again.",
            )
        return HttpResponseRedirect(self.model_admin.url_back(request, self.row))

    def form(self, *, data: Any = None, initial: Any = None) -> forms.Form:
        return self.form_class(data=data, initial=initial)

    def act(self, data: dict[str, Any]) -> None:
        """Act and say so. May raise AskAgain, one of REFUSALS, or DatabaseUnavailable."""
        raise NotImplementedError

    def refusal(self) -> str:
        """Return why this cannot be done now, or an empty text."""
        return ""

    def context(self) -> dict[str, Any]:
        """Return the values that the page says what will happen with."""
        return {}

    def page(self, form: forms.Form) -> HttpResponse:
        refusal = self.refusal()
        return self.model_admin.page(
            self.request,
            self.template,
            self.row,
            title=self.title,
            verb=self.verb,
            form=form,
            refusal=refusal,
            row_url=self.model_admin.url_back(self.request, self.row),
            row_name=self.model_admin.row_name(self.row),
            **({} if refusal else self.context()),
        )
