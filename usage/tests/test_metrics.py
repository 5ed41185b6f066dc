"""Metrics: what a scrape shows of requests, workers that came and went, and the database."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import requests
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.db import OperationalError
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from usage.database.transactions import DatabaseUnavailable
from usage.exposition import KEPT_SECONDS, DatabaseCollector, WorkersCollector
from usage.ledger.record import record
from usage.models import Bill, CommandRun, Customer
from usage.tests.books import Books, copied
from usage.tests.cluster import wait_until
from usage.tests.factories import FactFactory, usage_body
from usage.tests.live import Service
from usage.tests.metrics import Scraped, free_port
from usage.verification import Verification
from usage.verification.difference import Difference


@pytest.fixture(scope="module")
def scraped(books_to_copy: Books) -> Iterator[Scraped]:
    """A service with metrics, whose counts go on from test to test."""
    port = free_port()
    environment = {"METRICS_ADDRESS": f"127.0.0.1:{port}"}
    with (
        copied(books_to_copy) as books,
        Service(books, environment=environment, preload=False) as service,
    ):
        yield Scraped(service, port)


def test_records_are_counted_by_what_became_of_them(scraped: Scraped) -> None:
    before = scraped.samples()
    body, caller = usage_body(customer_id=1), scraped.service.caller()
    for sent in (body, body, body | {"units_consumed": 9}, usage_body(customer_id=404)):
        caller.post(sent)
    caller.post([usage_body(customer_id=1), usage_body(customer_id=404)])

    # The last answers first: the others are counted before it is sent.
    for outcome, number in (
        *(("unknown_customer", 2), ("created", 2)),
        *(("replayed", 1), ("request_id_conflict", 1)),
    ):
        had = before.get(("billing_records_total", (("outcome", outcome),)), 0)
        assert scraped.becomes(had + number, "billing_records_total", outcome=outcome)
    after = Counter(scraped.samples())
    after.subtract(before)
    labels = ("route", "usage"), ("status", "201")
    assert after["billing_request_seconds_count", labels] == 1
    assert after["billing_group_commit_requests_count", ()] >= 5
    assert after["billing_close_lock_seconds_count", (("verb", "record"),)] >= 5
    assert scraped.value("billing_requests_in_progress") == 0


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_count_is_lost_with_a_worker_that_ends_between_requests(
    scraped: Scraped, number: int
) -> None:
    told = scraped.value("billing_records_total", outcome="created")
    for _ in range(3):
        for _ in range(4):
            told += scraped.service.caller().post(usage_body(customer_id=1)).status == 201
        assert scraped.becomes(told, "billing_records_total", outcome="created")
        for worker in scraped.service.workers():
            worker.send_signal(number)
            worker.wait(30)

    assert scraped.service.caller().post(usage_body(customer_id=1)).status == 201
    assert scraped.becomes(told + 1, "billing_records_total", outcome="created")


@pytest.mark.live  # starts processes
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_scrape_is_as_large_and_fast_after_a_thousand_killed_workers(
    books: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    port, at_once, told, sizes, seconds = free_port(), 8, 0, [], []
    environment = {"METRICS_ADDRESS": f"127.0.0.1:{port}"}
    with Service(books, workers=at_once, environment=environment, preload=False) as service:
        scraped = Scraped(service, port)
        for _ in range(1000 // at_once):
            for _ in range(at_once):
                told += service.caller().post(usage_body(customer_id=1)).status == 201
            workers = service.workers()
            service.kill_workers()
            psutil.wait_procs(workers, 30)
            assert service.caller().ready().status == 200
            assert scraped.becomes(told, "billing_records_total", outcome="created")
            began = time.perf_counter()
            sizes.append(len(scraped.text()))
            seconds.append(time.perf_counter() - began)
    first, last = (1000 * statistics.median(some) for some in (seconds[:20], seconds[-20:]))
    with capsys.disabled():
        sys.stdout.write(f"\nA scrape: {sizes[0]}, then {sizes[-1]} bytes;")
        sys.stdout.write(f" {first:.1f}, then {last:.1f} ms.\n")
    assert sizes[-1] < 1.05 * sizes[0]


@pytest.mark.live  # starts processes
def test_the_process_that_serves_metrics_ends_with_the_service(books: Books) -> None:
    port = free_port()
    environment = {"METRICS_ADDRESS": f"127.0.0.1:{port}"}
    with Service(books, environment=environment, preload=False) as service:
        scraped = Scraped(service, port)
        assert scraped.value("billing_database_up") == 1
        server = service.metrics_server()

    wait_until(lambda: has_ended(server))


def has_ended(process: psutil.Process) -> bool:
    """Whether it has; where an init reaps no orphans, the dead wait for ever as zombies."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_metrics_are_never_on_the_public_port(scraped: Scraped) -> None:
    response = requests.get(
        f"http://127.0.0.1:{scraped.service.port}/metrics",
        headers={"X-Forwarded-Proto": "https"},
        timeout=10,
    )

    assert response.status_code == 404


# Files of ended workers


def write_counter(folder: Path, pid: int | str, value: float) -> None:
    file = MmapedDict(str(folder / f"counter_{pid}.db"))
    file.write_value(mmap_key("told", "told_total", [], [], "Told."), value, 0.0)
    file.close()


def told(collector: WorkersCollector) -> float:
    (metric,) = collector.collect()
    (sample,) = metric.samples
    return float(sample.value)


@pytest.fixture
def ended_pid() -> int:
    with psutil.Popen(["true"]) as process:
        process.wait()
        return int(process.pid)


def test_a_file_that_a_worker_has_only_begun_is_passed_over(tmp_path: Path, ended_pid: int) -> None:
    collector = WorkersCollector(str(tmp_path))
    write_counter(tmp_path, os.getpid(), 1)
    (tmp_path / "histogram_1.db").touch()
    (tmp_path / f"counter_{ended_pid}.db").touch()

    assert told(collector) == 1
    assert not (tmp_path / f"counter_{ended_pid}.db").exists()


def test_files_of_ended_workers_become_one(tmp_path: Path, ended_pid: int) -> None:
    collector = WorkersCollector(str(tmp_path))
    write_counter(tmp_path, os.getpid(), 1)
    for round_ in range(1, 201):
        write_counter(tmp_path, ended_pid, 10)
        assert told(collector) == 1 + 10 * round_

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([f"counter_{os.getpid()}.db", "counter_ended.db", "counter_ended.json"])


@pytest.mark.parametrize("step", ["replace", "unlink"])
def test_a_crash_while_files_become_one_counts_nothing_twice(
    tmp_path: Path, ended_pid: int, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_counter(tmp_path, ended_pid, 10)
    collector = WorkersCollector(str(tmp_path))
    assert told(collector) == 10
    write_counter(tmp_path, ended_pid, 5)

    def crash(path: Path, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "replace":
            patch.setattr(Path, "replace", crash)
        else:
            unlink = Path.unlink
            patch.setattr(
                Path,
                "unlink",
                lambda path, **options: (
                    unlink(path, **options) if path.suffix == ".new" else crash(path)
                ),
            )
        with pytest.raises(KeyboardInterrupt):
            told(collector)

    assert told(WorkersCollector(str(tmp_path))) == 15


# The database


@pytest.fixture
def bill(customer: Customer) -> Bill:
    record([FactFactory.build(customer_id=customer.pk)], reported_by_id=None)
    bill: Bill = Bill.objects.get()
    return bill


def test_the_last_run_of_a_command_is_shown(own_books: Books) -> None:
    CommandRun.objects.keep("close_bills", exit_status=3, count=1)
    CommandRun.objects.keep("close_bills", exit_status=0, count=48)
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())

    labels = {"command": "close_bills"}
    assert registry.get_sample_value("billing_command_exit_status", labels) == 0
    assert registry.get_sample_value("billing_command_count", labels) == 48
    assert CommandRun.objects.count() == 1


def test_the_database_is_asked_every_fifteen_seconds_at_most(
    own_books: Books, django_assert_num_queries: Any
) -> None:
    now = [0.0]
    collector = DatabaseCollector(clock=lambda: now[0])
    first = list(collector.collect())

    now[0] += KEPT_SECONDS - 1
    with django_assert_num_queries(0):
        assert list(collector.collect()) == first
    now[0] += 1
    assert list(collector.collect()) is not first


@pytest.mark.django_db
def test_each_whole_run_of_a_command_is_kept(customer: Customer) -> None:
    call_command("verify_bills", verbosity=0)
    call_command("close_bills", verbosity=0)
    call_command("check_usage", verbosity=0)

    kept = CommandRun.objects.values_list("command", "exit_status", "count").order_by("command")
    assert list(kept) == [("check_usage", 0, 0), ("close_bills", 0, 0), ("verify_bills", 0, 0)]


@pytest.mark.django_db
def test_a_run_that_only_looks_is_not_kept(bill: Bill) -> None:
    call_command("close_bills", "--dry-run", verbosity=0)
    call_command("verify_bills", "--bill", str(bill.pk), verbosity=0)

    assert not CommandRun.objects.exists()


@pytest.mark.django_db
def test_a_run_that_failed_is_kept_with_its_status(
    monkeypatch: pytest.MonkeyPatch, bill: Bill
) -> None:
    difference = Difference(bill.pk, "I5", "The total differs.")
    monkeypatch.setattr(Verification, "differences", lambda self: iter([difference]))

    with pytest.raises(CommandError):
        call_command("verify_bills", verbosity=0)

    (run,) = CommandRun.objects.all()
    assert (run.exit_status, run.count) == (1, 1)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "failure", [RuntimeError("A bug."), DatabaseUnavailable("It is locked."), SystemCheckError()]
)
def test_a_run_that_could_not_look_is_not_kept_as_one_that_found_something(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Verification, "differences", Mock(side_effect=failure))

    with pytest.raises(type(failure)):
        call_command("verify_bills", verbosity=0)

    assert CommandRun.objects.get().exit_status == 2


@pytest.mark.django_db
def test_a_run_says_that_its_end_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = OperationalError("cannot execute INSERT in a read-only transaction")
    monkeypatch.setattr(type(CommandRun.objects), "keep", Mock(side_effect=refused))

    call_command("verify_bills")

    said = capsys.readouterr()
    assert said.err == f"The end of this run is not kept for the metrics: {refused}\n"


@pytest.mark.django_db
def test_a_run_that_is_interrupted_leaves_the_result_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call_command("verify_bills", verbosity=0)
    monkeypatch.setattr(Verification, "differences", Mock(side_effect=KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        call_command("verify_bills", verbosity=0)

    assert CommandRun.objects.get().exit_status == 0
