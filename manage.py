#!/usr/bin/env python
"""Runs the administrative commands of the service."""

import errno
import os
import sys
import traceback

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import Error

NOT_DONE = 2  # the exit status if a command could not do its work; 1 can mean a finding
INTERRUPTED = 130  # what a shell makes of Ctrl-C
_INSUFFICIENT_PRIVILEGE = "42501"
_UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Run the command; a wrong setting or a database that is away ends it with one sentence."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    try:
        execute_from_command_line(sys.argv)
        sys.stdout.flush()  # here, where it can be told that this fails
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"{error}\n")
    except Exception as error:  # noqa: BLE001 - Python's own exit status for these is 1
        if sentence := _why_not_done(error):
            sys.stderr.write(f"{sentence}\n")
        else:
            traceback.print_exc()
    else:
        return
    sys.exit(NOT_DONE)


def _why_not_done(error: Exception) -> str | None:
    """Return a sentence about output or a database that cannot be used, or None."""
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        # Buffered output would fail once more as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"The output cannot be written ({error.strerror}): see to that and run this again."
    # Only now are the settings read, which this needs.
    from usage.database.transactions import DatabaseUnavailable, is_unavailable  # noqa: PLC0415

    if isinstance(error, DatabaseUnavailable):
        return str(error)
    if not isinstance(error, Error):
        return None
    said = " ".join(str(error).split())
    state = getattr(error.__cause__, "pgcode", None)
    sentence = None
    if state == _INSUFFICIENT_PRIVILEGE:
        sentence = f"The database refused: {said}. The user of its address may not do this."
    elif said.startswith("invalid dsn: "):  # only libpq knows what options there are
        sentence = (
            f"The address of the database is malformed: {said.removeprefix('invalid dsn: ')}."
        )
    elif is_unavailable(error):
        sentence = f"The database {'refused' if state else 'does not answer'}: {said}"
    return sentence


if __name__ == "__main__":
    main()
