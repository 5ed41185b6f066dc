"""Commands that run by timer, whose last run is kept for metrics."""

from __future__ import annotations

import contextlib
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from usage.models import CommandRun


class ScheduledCommand(BaseCommand):
    """Keeps how a run ended, with its exit status and with `counted`, which `handle` sets.

    A run that only looks, or looks at a part, sets `is_kept` to False.
    """

    counted = 0
    is_kept = True

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run the command, and keep how that ended."""
        exit_status = 1  # of any other error than CommandError
        try:
            result = super().execute(*args, **options)
            exit_status = 0
        except CommandError as error:
            exit_status = error.returncode
            raise
        finally:
            if self.is_kept:
                name = type(self).__module__.rpartition(".")[2]
                with contextlib.suppress(Error):  # the command has told it, and metrics will
                    CommandRun.objects.keep(name, exit_status=exit_status, count=self.counted)
        return result
