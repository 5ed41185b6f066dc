"""Staff accounts: Django's own pages, with a list of who may do what and who still logs in."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from usage.admin import formats

admin.site.unregister(User)


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
