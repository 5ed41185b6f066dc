#!/usr/bin/env python
"""Runs the administrative commands of the service."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import Error

NOT_DONE = 2  # the exit status if the database did not let a command do its work


def main() -> None:
    """Run the command; a wrong setting or a database that is away ends it with one sentence."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(str(error))
    except Exception as error:
        if (sentence := _why_not_done(error)) is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        sys.exit(NOT_DONE)


def _why_not_done(error: Exception) -> str | None:
    """Return a sentence about a database that is away or not to be used, or None."""
    # Only now are the settings read, which this needs.
    from usage.database.transactions import DatabaseUnavailable, is_unavailable  # noqa: PLC0415

    if isinstance(error, DatabaseUnavailable):
        return str(error)
    if isinstance(error, Error) and is_unavailable(error):
        return f"The database does not answer: {' '.join(str(error).split())}"
    return None


if __name__ == "__main__":
    main()
