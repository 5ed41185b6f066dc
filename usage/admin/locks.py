"""Lockouts after wrong passwords: superusers see them, and delete a row to lift one."""

from axes.admin import AccessAttemptAdmin  # type: ignore[import-untyped]  # has no types
from axes.models import AccessAttempt  # type: ignore[import-untyped]  # has no types
from django.contrib import admin

admin.site.register(AccessAttempt, AccessAttemptAdmin)
