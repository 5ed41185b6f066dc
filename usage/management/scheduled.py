"""Commands that run by timer, whose last run is kept for metrics."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, SystemCheckError
from django.db import Error

from usage.management.books import NOT_DONE, BooksCommand
from usage.models import CommandRun

LEFT_FOR_STAFF = 3  # the exit status of a command that leaves something for staff


class ScheduledCommand(BooksCommand):
    """Keeps how a run ended, with its exit status and with `counted`, which `handle` sets.

    A run that only looks, or looks at a part, sets `is_kept` to False. One that Ctrl-C ends is not
    kept either: the result of the run before still holds.
    """

    counted = 0
    is_kept = True

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run the command, and keep how that ended."""
        try:
            result = super().execute(*args, **options)
        except CommandError as error:
            if isinstance(error, SystemCheckError):
                error.returncode = NOT_DONE  # its 1 would be taken for a finding
            self._keep(error.returncode)
            raise
        except Exception:
            self._keep(NOT_DONE)
            raise
        self._keep(0)
        return result

    def _keep(self, exit_status: int) -> None:
        if self.is_kept:
            name = type(self).__module__.rpartition(".")[2]
            try:
                CommandRun.objects.keep(name, exit_status=exit_status, count=self.counted)
            except Error as error:
                if exit_status != NOT_DONE:  # else the command tells it
                    self.stderr.write(f"The end of this run is not kept for the metrics: {error}")
