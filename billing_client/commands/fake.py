"""``billing-client fake``: a service in memory that fails on purpose, and grades its client."""

from __future__ import annotations

import argparse
import signal
from typing import Any, TextIO

from billing_client.commands.record import whole_number
from billing_client.fake.server import READ_ELSEWHERE, FakeServer

_FEWEST_FACTS = 8
_DESCRIPTION = f"""
Run a billing service in memory on http://127.0.0.1:PORT and grade the client that reports to it.
It takes any API key, and fails on purpose: answers lost after storing, resets, silence, 502, an
outage with 503 and Retry-After, and an array with a refused record.

Let the client report as many facts as --facts says, each with other units, one by one or in at
least six arrays. The run ends by itself when every fact is stored and nothing more comes, when no
call has come for 45 seconds (300 at the start), or at Ctrl-C. A refused record counts as read once
it is sent again; a client that only writes it down posts the ids, as a JSON array, to
{READ_ELSEWHERE}.

The exit status is 0 only for a client without a fault.
"""


def add_commands(commands: Any) -> None:
    """Add ``fake``."""
    parser = commands.add_parser(
        "fake",
        help="grade a client in any language against a service that fails",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--port", type=whole_number(0, 65535), required=True, help="0 takes a free one"
    )
    parser.add_argument(
        "--facts",
        type=whole_number(_FEWEST_FACTS),
        default=16,
        help=f"how many facts come, at least {_FEWEST_FACTS} to meet every fault (16)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another order of the faults (0)")
    parser.add_argument(
        "--new-connections",
        action="store_true",
        help="allow a connection per call, as in shell scripts where each call is a process",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, out: TextIO) -> int:
    def say(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    # `kill` ends a run in the background as Ctrl-C ends one in a terminal.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with FakeServer(port=options.port, facts=options.facts, seed=options.seed, say=say) as fake:
        try:
            say(f"Listening on {fake.url}; set BILLING_URL to it, and BILLING_API_KEY to any text.")
            fake.wait()
        except KeyboardInterrupt:
            say("Interrupted: graded by the calls so far.")
        finally:
            signal.signal(signal.SIGTERM, before)
    say(fake.grader.summary())
    findings = fake.grader.findings(may_reconnect=options.new_connections)
    for finding in findings:
        say(f"FAULT {finding.name}: {finding.text}.")
    say("Failed." if findings else "Passed: nothing lost, nothing doubled.")
    return int(bool(findings))
