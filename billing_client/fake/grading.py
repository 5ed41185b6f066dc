"""Grades a client by the calls it made: which of the known faults it has.

All times are in seconds on the monotonic clock.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from billing_client.errors import some
from billing_client.fake.service import MemoryService, id_of

Fault = Literal["lost", "reset", "silence", "bad gateway", "outage", "refused"]
FAULTS: dict[Fault, str] = {
    "lost": "stored, and the connection closed without an answer",
    "reset": "stored, and the connection reset",
    "silence": "stored, and never answered",
    "bad gateway": "stored, and answered 502 by a proxy",
    "outage": "answered 503 with Retry-After, for as long as a failover takes",
    "refused": "an array of which one record is refused at first: 404 unknown_customer",
}
_BREAKING: tuple[Fault, ...] = ("lost", "reset", "silence")
# A timer may wake a client a little early.
_TOLERANCE = 0.05
_RECONNECTS = 3


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take, in seconds; the defaults are those of production."""

    patience: float = 30.0  # a client tries at least so long
    outage: float = 24.0
    retry_after: int = 5
    silence: float = 20.0  # who still waits then has no timeout
    quiet: float = 2.0  # without a call, once all is settled, the run is over
    idle: float = 45.0  # without a call, the run is over
    start: float = 300.0  # without a first call, likewise: the client may have to be built


@dataclass(slots=True)
class Call:
    """One request, as the service saw it.

    records    each record that was sent, by its id; numbers are text, so that none is rounded
    connection a number for each connection
    fault      the fault that was arranged for it; None if it was answered honestly
    status     the status that was answered, 0 if there was no answer
    results    for each id its status in an array's answer, or the call's own
    hung_up    whether the client ended the silence
    """

    number: int
    connection: int
    began: float
    records: dict[str, Any]
    fault: Fault | None = None
    status: int = 0
    detail: str = ""
    results: dict[str, int] = field(default_factory=dict)
    ended: float = 0.0
    hung_up: bool = True


class Finding(NamedTuple):
    """A fault of the client: its name, and a sentence with the evidence."""

    name: str
    text: str


def records_of(body: bytes) -> dict[str, Any]:
    """Each record of a body by its id, numbers as they were written; empty if it is not JSON."""
    try:
        sent = json.loads(body, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return {}
    records = sent if isinstance(sent, list) else [sent]
    return {name: record for record in records if (name := id_of(record)) is not None}


class Grader:
    """Collects calls, and finds the client's faults in them."""

    def __init__(self, service: MemoryService, *, facts: int, times: Times) -> None:
        self.calls: list[Call] = []
        self.read_elsewhere: set[str] = set()  # refused ids that the client says it has seen
        self._service = service
        self._facts = facts
        self._times = times

    def is_settled(self) -> bool:
        """Whether every fact is stored and every id has had a final answer."""
        return (
            self._settled_facts() >= self._facts
            and self._by_id().keys() <= self._acknowledged()
            and not self._unread()
        )

    def findings(self, *, may_reconnect: bool = False) -> list[Finding]:
        """Every fault that the calls show, the gravest first."""
        return [
            *self._doubled(),
            *self._changed(),
            *self._gave_up(),
            *self._lost(),
            *self._early(),
            *self._bad_calls(),
            *(() if may_reconnect else self._reconnects()),
            *self._unmet(),
        ]

    def summary(self) -> str:
        """How many calls, connections and facts there were."""
        met = Counter(call.fault for call in self.calls if call.fault)
        connections = len({call.connection for call in self.calls})
        faults = ", ".join(f"{name} {number}" for name, number in sorted(met.items()))
        return (
            f"{len(self.calls)} calls on {connections} connections;"
            f" {len(self._service.stored)} records stored of {self._facts} facts expected;"
            f" faults met: {faults or 'none'}"
        )

    def _doubled(self) -> Iterable[Finding]:
        ids = defaultdict(list)
        for name, usage in self._service.usages.items():
            content = usage.customer_id, usage.service, usage.units_consumed, usage.price_per_unit
            ids[content].append(name)
        remedy = "make the id once per fact, before the first try, and keep it"
        for names in ids.values():
            if len(names) > 1:
                times = f"one fact is stored {len(names)} times, under {some(names, 3)}"
                yield Finding("doubled", f"{times}: {remedy}")
        if len(ids) > self._facts:
            yield Finding("doubled", f"{len(ids)} records for {self._facts} facts: {remedy}")

    def _changed(self) -> Iterable[Finding]:
        for name, calls in self._by_id().items():
            versions = [call.records[name] for call in calls]
            # A record that was refused is corrected under its id.
            refused = any(400 <= call.results.get(name, 0) < 409 for call in calls)
            other = next((one for one in versions if one != versions[0]), None)
            if other is not None and not refused:
                fields = sorted(
                    key for key in {*versions[0], *other} if versions[0].get(key) != other.get(key)
                )
                yield Finding(
                    "changed retry",
                    f"{name} was sent again with another {', '.join(fields)}: make the bytes once,"
                    " before the first try, and send the same ones again",
                )

    def _gave_up(self) -> Iterable[Finding]:
        done = self._acknowledged()
        for name, calls in self._by_id().items():
            # The last one may still be under way when a run is interrupted.
            seconds = max(calls[-1].began, calls[-1].ended) - calls[0].began
            if name not in done and seconds < self._times.patience:
                yield Finding(
                    "gave up",
                    f"{name} got no answer in {_counted(calls, 'try', 'tries')} over"
                    f" {seconds:.1f} s: try again for at least {self._times.patience:.0f} s",
                )

    def _lost(self) -> Iterable[Finding]:
        missing = self._facts - self._settled_facts()
        if missing > 0:
            yield Finding("lost", f"{missing} of {self._facts} facts never arrived")
        unread = sorted(self._unread())
        if unread:
            yield Finding(
                "refusal not read",
                f"{some(unread, 3)} refused in an array answered 207, and never sent again nor"
                " acknowledged: look at each result, or at summary.rejected",
            )

    def _early(self) -> Iterable[Finding]:
        for name, calls in self._by_id().items():
            for earlier, later in pairwise(calls):
                waited = later.began - earlier.ended
                if earlier.status == 503 and waited < self._times.retry_after - _TOLERANCE:
                    yield Finding(
                        "Retry-After not kept",
                        f"{name} was sent again {waited:.2f} s after a 503 with Retry-After:"
                        f" {self._times.retry_after}",
                    )
                    break

    def _bad_calls(self) -> Iterable[Finding]:
        waited = [call for call in self.calls if not call.hung_up]
        if waited:
            yield Finding(
                "no timeout",
                f"call {waited[0].number} waited {self._times.silence:.0f} s for an answer that did"
                " not come: give up an attempt after 10 s and try again",
            )
        rejected = [
            call
            for call in self.calls
            if 400 <= call.status < 500 and call.status not in (409, 429)
        ]
        for call in rejected[:1]:
            yield Finding(
                "bad request",
                f"{_counted(rejected, 'call', 'calls')} refused; call {call.number} with"
                f" {call.status}: {call.detail}",
            )

    def _reconnects(self) -> Iterable[Finding]:
        connections = len({call.connection for call in self.calls})
        broken = sum(call.fault in _BREAKING for call in self.calls)
        # Each of the calls that were under way at one moment needs a connection.
        most_at_once = max(
            (
                sum(other.began <= call.began < other.ended for other in self.calls)
                for call in self.calls
            ),
            default=0,
        )
        unneeded = connections - broken - most_at_once
        if unneeded >= _RECONNECTS and 2 * unneeded > len(self.calls) - broken:
            yield Finding(
                "connection per call",
                f"{_counted(self.calls, 'call', 'calls')} on {connections} connections, though only"
                f" {broken} broke: keep connections alive, and read each answer to its end",
            )

    def _unmet(self) -> Iterable[Finding]:
        met = {call.fault for call in self.calls}
        arrays = any(len(call.records) > 1 for call in self.calls)
        unmet = [name for name in FAULTS if name not in met and (arrays or name != "refused")]
        if unmet:
            yield Finding(
                "not tried",
                f"the client made too few calls to meet: {', '.join(unmet)}. Report the facts one"
                " by one, or in at least six arrays",
            )

    def _settled_facts(self) -> int:
        """How many facts are stored, or refused to a client that wrote that down."""
        return len({*self._service.stored, *self.read_elsewhere})

    def _by_id(self) -> dict[str, list[Call]]:
        calls = defaultdict(list)
        for call in self.calls:
            for name in call.records:
                calls[name].append(call)
        return calls

    def _acknowledged(self) -> set[str]:
        """Ids with a final answer: stored, or refused."""
        return {
            name
            for call in self.calls
            for name, status in call.results.items()
            if status < 500 and status != 429
        }

    def _unread(self) -> set[str]:
        """Ids refused in an array that no later call had."""
        unread: set[str] = set()
        for call in self.calls:
            unread -= call.records.keys()
            if call.status == 207:
                unread |= {name for name, status in call.results.items() if status >= 400}
        return unread - self.read_elsewhere


def _counted(things: Sequence[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"
