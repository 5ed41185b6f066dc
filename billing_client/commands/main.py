"""The entry point of ``billing-client`` and of ``python -m billing_client``.

A module of sub-commands has a function ``add_commands(commands)``. It adds parsers, and sets each
one's default ``run``, a function of the options and the text stream to print to, which returns
the exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from billing_client.commands import fake, record, send
from billing_client.errors import BillingError
from billing_client.outbox import commands as outbox
from billing_client.version import __version__


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command; return the exit status.

    0 if all is done, 1 if something is left to do, 2 if the command could not do its work.
    """
    try:
        return _run(arguments, out or _stdout())
    except KeyboardInterrupt:
        return 130  # as shells report SIGINT
    except BrokenPipeError:
        # The interpreter flushes both when it ends, and would complain again.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141  # as shells report SIGPIPE


def _run(arguments: Sequence[str] | None, out: TextIO) -> int:
    """Raises BrokenPipeError also if nobody reads the error messages."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options, out)
        out.flush()
    except BrokenPipeError:
        raise
    except (BillingError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command prints
        return 2
    except Exception:  # noqa: BLE001 - Python's own exit status for a bug is 1: something is refused
        traceback.print_exc()
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="billing-client", description="Report usage to the billing service."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_url(parser, default=None)
    _add_outbox(parser, default=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (record, send, outbox, fake):
        before = set(commands.choices)
        module.add_commands(commands)
        for name in commands.choices.keys() - before:
            # So that a setting before the command stays if there is none after it.
            if module is not fake:
                _add_url(commands.choices[name], default=argparse.SUPPRESS)
            if module is outbox:
                _add_outbox(commands.choices[name], default=argparse.SUPPRESS)
    return parser


def _add_url(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument(
        "--url",
        default=default,
        help="the service; BILLING_URL if not given (the key is always BILLING_API_KEY)",
    )


def _add_outbox(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument(
        "--outbox", metavar="DIR", default=default, help="BILLING_OUTBOX_DIR if not given"
    )


def _stdout() -> TextIO:
    """Standard output, where text that its encoding lacks is escaped instead of an error.

    A stream that was closed before the command began, as some schedulers do, is the null device.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 - open to the end
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # they are files
    return sys.stdout
