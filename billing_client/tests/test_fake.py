"""``billing-client fake``: a right client passes it, and each wrong one fails it by name."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from billing_client import BillingClient
from billing_client.commands.main import main
from billing_client.fake.grading import FAULTS, Times
from billing_client.fake.server import READ_ELSEWHERE, FakeServer
from billing_client.fake.service import MemoryService
from billing_client.tests.faulty import KEY
from billing_client.tests.outboxes import ROOT

pytestmark = pytest.mark.live  # starts processes
FACTS = 16
# Patience and faults in tenths; Retry-After counts in whole seconds.
QUICK = Times(patience=8.0, outage=1.2, retry_after=1, silence=1.2, quiet=0.1, idle=0.1)
Record = dict[str, Any]


class Client:
    """As small as a right client can be; each wrong one below changes one thing."""

    timeout: float | None = 0.6
    headers: ClassVar[dict[str, str]] = {
        "Authorization": "Bearer key",
        "Content-Type": "application/json",
    }

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=self.timeout)

    def report(self, facts: list[Record]) -> None:
        for fact in facts:
            self.deliver(fact)

    def deliver(self, sent: Any) -> tuple[int, bytes]:
        body = json.dumps(sent).encode()
        ends, pause = time.monotonic() + QUICK.patience, 0.02
        while True:
            status, answer, retry_after = self.attempt(body)
            if self.is_final(status):
                return status, answer
            pause *= 2
            wait = max(pause, self.patience_of(retry_after))
            if time.monotonic() + wait > ends:
                return status, answer
            time.sleep(wait)
            body = self.again(sent, body, status)

    def attempt(self, body: bytes) -> tuple[int, bytes, float]:
        try:
            self.connection.request("POST", "/api/v1/usage/", body, self.headers)
            response = self.connection.getresponse()
            answer = response.read()
            return response.status, answer, float(response.headers.get("Retry-After", 0))
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return 0, b"", 0.0

    def is_final(self, status: int) -> bool:
        return 200 <= status < 500 and status != 429

    def patience_of(self, retry_after: float) -> float:
        return retry_after

    def again(self, sent: Any, body: bytes, status: int) -> bytes:
        return body


class BatchClient(Client):
    def report(self, facts: list[Record]) -> None:
        for start in range(0, len(facts), 2):
            self.deliver_batch(facts[start : start + 2])

    def deliver_batch(self, batch: list[Record]) -> None:
        _, answer = self.deliver(batch)
        results = json.loads(answer)["results"]
        refused = [one["request_id"] for one in results if one["status"] >= 400]
        for record in batch:
            if record["request_id"] in refused:
                self.refused(record)

    def refused(self, record: Record) -> None:
        self.deliver(record)


class WritesRefusalsDown(BatchClient):
    def refused(self, record: Record) -> None:
        ids = json.dumps([record["request_id"]])
        self.connection.request("POST", READ_ELSEWHERE, ids, self.headers)
        assert self.connection.getresponse().read() == b"{}"


class NewIdEachTry(Client):
    def again(self, sent: Any, body: bytes, status: int) -> bytes:
        return json.dumps({**sent, "request_id": os.urandom(8).hex()}).encode()


class NewIdAfterConflict(Client):
    """Obeys a refusal that says: send a new fact under a new id."""

    def deliver(self, sent: Any) -> tuple[int, bytes]:
        status, answer = super().deliver(sent)
        if status == 409:
            return super().deliver({**sent, "request_id": f"{sent['request_id']}:again"})
        return status, answer

    def again(self, sent: Any, body: bytes, status: int) -> bytes:
        return json.dumps({**sent, "occurred_at": datetime.now(UTC).isoformat()}).encode()


class NewTimeEachTry(Client):
    def again(self, sent: Any, body: bytes, status: int) -> bytes:
        return json.dumps({**sent, "occurred_at": datetime.now(UTC).isoformat()}).encode()


class RoundsBetweenTries(Client):
    def again(self, sent: Any, body: bytes, status: int) -> bytes:
        return json.dumps({**sent, "units_consumed": round(float(sent["units_consumed"]))}).encode()


class KeepsNoRetryAfter(Client):
    def patience_of(self, retry_after: float) -> float:
        return min(retry_after, 0.2)


class TriesTwice(Client):
    def deliver(self, sent: Any) -> tuple[int, bytes]:
        body = json.dumps(sent).encode()
        for _ in range(2):
            status, answer, retry_after = self.attempt(body)
            if self.is_final(status):
                break
            time.sleep(retry_after)
        return status, answer


class TakesNoAnswerForSuccess(Client):
    def is_final(self, status: int) -> bool:
        return status != 503


class TakesAnyAnswerForSuccess(Client):
    def is_final(self, status: int) -> bool:
        return status > 0


class LooksAtNoResult(BatchClient):
    def refused(self, record: Record) -> None:
        """The status 207 was good enough."""


class ConnectsEachTime(Client):
    def attempt(self, body: bytes) -> tuple[int, bytes, float]:
        self.connection.close()
        return super().attempt(body)


class HasNoTimeout(Client):
    timeout = None


class SendsAnotherKey(Client):
    headers: ClassVar = {**Client.headers, "Idempotency-Key": "mine"}


class SendsFewerFacts(Client):
    def report(self, facts: list[Record]) -> None:
        super().report(facts[:-2])


RIGHT = [Client, BatchClient, WritesRefusalsDown]
WRONG: dict[type[Client], set[str]] = {
    NewIdEachTry: {"doubled", "gave up"},
    NewIdAfterConflict: {"doubled", "changed retry"},
    NewTimeEachTry: {"changed retry"},
    RoundsBetweenTries: {"changed retry"},
    KeepsNoRetryAfter: {"Retry-After not kept"},
    TriesTwice: {"gave up", "lost"},
    TakesNoAnswerForSuccess: {"gave up"},
    TakesAnyAnswerForSuccess: {"gave up", "lost"},
    LooksAtNoResult: {"refusal not read", "lost"},
    ConnectsEachTime: {"connection per call"},
    HasNoTimeout: {"no timeout"},
    SendsAnotherKey: {"bad request", "lost"},
    SendsFewerFacts: {"lost"},
}


def facts() -> list[Record]:
    return [
        {
            "request_id": f"team:{number}",
            "customer_id": 2**53 + 1,
            "service": "CDN",
            "units_consumed": f"{number}.75",
            "price_per_unit": "0.0000001",
        }
        for number in range(FACTS)
    ]


def graded(kind: type[Client], seed: int) -> set[str]:
    with FakeServer(facts=FACTS, seed=seed, times=QUICK) as fake:
        client = kind(fake.port)
        client.report(facts())
        client.connection.close()
        fake.wait()
    return {finding.name for finding in fake.grader.findings()}


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[type[Client], int], set[str]]:
    """The names of each client's faults, by seed; all at once, since they mostly wait."""
    runs = [(kind, seed) for kind in RIGHT for seed in range(3)] + [(kind, 0) for kind in WRONG]
    with ThreadPoolExecutor(len(runs)) as pool:
        return dict(zip(runs, pool.map(lambda run: graded(*run), runs), strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_client_passes(verdicts: Any, kind: type[Client], seed: int) -> None:
    assert verdicts[kind, seed] == set()


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_client_fails_by_name(verdicts: Any, kind: type[Client]) -> None:
    assert verdicts[kind, 0] == WRONG[kind]


def test_a_client_that_makes_few_calls_is_told_what_it_did_not_meet() -> None:
    with FakeServer(facts=FACTS, times=QUICK) as fake:
        client = BatchClient(fake.port)
        client.deliver_batch(facts())
        client.connection.close()
    (finding,) = fake.grader.findings()
    assert finding.name == "not tried"
    assert sum(name in finding.text for name in FAULTS) == len(FAULTS) - 1


def test_the_client_of_this_package_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its waits are real ones here
    with FakeServer(facts=FACTS, times=QUICK) as fake:
        seconds = QUICK.silence / 2
        with BillingClient(
            fake.url, KEY, read_timeout=seconds, total_timeout=QUICK.patience
        ) as billing:
            for fact in facts():
                billing.record_usage(**fact)
        fake.wait()
    assert fake.grader.findings() == []


def test_the_command_grades_by_the_calls_so_far_when_it_is_ended() -> None:
    command = [sys.executable, "-m", "billing_client", "fake", "--port", "0", "--facts", "8"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        listening = process.stdout.readline()
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", listening)[0])
        client = Client(port)
        assert client.attempt(json.dumps({**facts()[0], "price_per_unit": None}).encode())[0] != 201
        client.connection.close()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "call 1 on connection 1: team:0 -> " in said
    assert "FAULT lost: 8 of 8 facts never arrived." in said


@pytest.mark.parametrize("facts", ["7", "many"])
def test_too_few_facts_are_refused(facts: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fake", "--port", "0", "--facts", facts])
    assert ended.value.code == 2


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_an_invalid_port_is_refused(port: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fake", "--port", port])
    assert ended.value.code == 2


@pytest.mark.parametrize("body", [b"nonsense", b"[" * 100_000, b'{"ids": ["a"]}', b"[7]"])
def test_anything_but_an_array_of_ids_is_refused(body: bytes) -> None:
    with FakeServer(facts=FACTS, times=QUICK) as fake:
        client = Client(fake.port)
        client.connection.request("POST", READ_ELSEWHERE, body)
        response = client.connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (400, "invalid_json")
        client.connection.close()
    assert fake.grader.read_elsewhere == set()


def test_ids_that_are_no_texts_are_refused_and_graded() -> None:
    batch = [
        {**fact, "request_id": name} for fact, name in zip(facts(), [7, ["a"], "a b"], strict=False)
    ]
    with FakeServer(facts=FACTS, times=QUICK) as fake:
        client = Client(fake.port)
        while client.attempt(json.dumps(batch).encode())[0] != 207:
            pass
        client.connection.close()
        fake.wait()
    assert "refusal not read" in {finding.name for finding in fake.grader.findings()}


def test_where_any_time_may_be_sent_usage_is_on_the_bill_of_its_month() -> None:
    """So that a test or an example with a time of its own passes in every year."""
    body = {
        "request_id": "cdn:1",
        "customer_id": 1,
        "service": "CDN",
        "units_consumed": 1,
        "price_per_unit": 1,
        "occurred_at": "2024-02-29T10:00:00Z",
    }
    reply = MemoryService(any_time=True).answer(json.dumps(body).encode())
    assert (reply.content["bill"]["month"], reply.content["late"]) == ("2024-02", False)
