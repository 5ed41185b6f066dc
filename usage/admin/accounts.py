"""Staff accounts: Django's own pages, with a list of who may do what and who still logs in.

Superusers also see the lockouts after wrong passwords, and delete a row to lift one.
"""

from __future__ import annotations

from typing import Any

from axes.admin import AccessAttemptAdmin  # type: ignore[import-untyped]  # has no types
from axes.models import AccessAttempt  # type: ignore[import-untyped]  # has no types
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.core.validators import MaxLengthValidator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from usage.admin import formats


class LoginForm(AdminAuthenticationForm):
    """Refuses a user name that is longer than that of any account.

    Django checks the length only in browsers, and axes has no room for the failure of a longer one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        longest = MaxLengthValidator(User._meta.get_field("username").max_length)
        self.fields["username"].validators = [*self.fields["username"].validators, longest]


admin.site.login_form = LoginForm
admin.site.unregister(User)
admin.site.register(AccessAttempt, AccessAttemptAdmin)


@admin.register(User)
class AccountAdmin(UserAdmin):  # type: ignore[type-arg]  # generic only in the stubs
    """Shows each account's groups, whether it is active, and its last login."""

    list_display = ("username", "email", "shown_groups", "is_active", "is_superuser", "logged_in")
    list_filter = ("groups", "is_active", "is_superuser")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="groups")
    def shown_groups(self, user: User) -> str:
        return ", ".join(sorted(group.name for group in user.groups.all())) or "–"

    @admin.display(description="last login", ordering="last_login")
    def logged_in(self, user: User) -> SafeString | str:
        return formats.moment(user.last_login) if user.last_login else "never"
