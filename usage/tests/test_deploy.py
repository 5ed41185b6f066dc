"""The files of deploy/ that other programs read: those programs accept them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command

from usage.ledger.hold import hold
from usage.models import Bill
from usage.tests.books import Books
from usage.tests.factories import usage_body
from usage.tests.live import Service
from usage.tests.metrics import Scraped, free_port
from usage.tests.tools import tool

pytestmark = pytest.mark.live  # starts processes
ROOT = Path(settings.BASE_DIR)
RULES = ROOT / "deploy/prometheus/billing.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/billing.json"
UNITS = sorted((ROOT / "deploy/systemd").iterdir())


def run(*command: str, folder: Path = ROOT) -> str:
    """Run a program, which must succeed, and return what it printed."""
    result = subprocess.run(  # noqa: PLW1510 - the assertion shows what it printed
        command, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_prometheus_accepts_the_alert_rules() -> None:
    assert "SUCCESS" in run(tool("promtool"), "check", "rules", str(RULES))


def test_each_alert_fires_and_stays_quiet_where_it_should() -> None:
    tests = RULES.with_name("billing.rules.test.yml")

    assert "SUCCESS" in run(tool("promtool"), "test", "rules", tests.name, folder=tests.parent)
    fired = set(re.findall(r"alertname: (\w+)\s+exp_alerts:\s+- exp_labels", tests.read_text()))
    assert fired == set(re.findall(r"alert: (\w+)", RULES.read_text()))


def test_each_alert_names_a_section_of_the_runbook() -> None:
    titles = re.findall(r"^##+ (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    named = re.findall(r"runbook: docs/operations\.md#(\S+)", RULES.read_text())

    assert len(named) == RULES.read_text().count("- alert:")
    assert set(named) <= anchors


def test_every_metric_that_is_named_is_in_a_scrape(own_books: Books) -> None:
    port = free_port()
    environment = {"METRICS_ADDRESS": f"127.0.0.1:{port}"}
    with Service(own_books, environment=environment, preload=False) as service:
        service.caller().post(usage_body(customer_id=1))
        service.caller().post({})
        hold(Bill.objects.latest("pk"), by="Sam", reason="A test.")
        call_command("close_bills", verbosity=0)
        scraped = Scraped(service, port)
        assert scraped.becomes(1, "billing_records_total", outcome="created")
        names = {name for name, _ in scraped.samples()}

    text = RULES.read_text() + DASHBOARD.read_text()
    named = set(re.findall(r"\bbilling_\w+", text))
    # Only an answer of 503 has one.
    assert named - names == {"billing_unavailable_total"}


def test_the_dashboard_is_json_with_a_query_in_each_panel() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]

    assert all(target["expr"] for panel in panels for target in panel["targets"])


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """A folder in which systemd finds the units and the programs that they start."""
    for program in ("gunicorn", "python"):
        path = tmp_path / "srv/billing/.venv/bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    kill = tmp_path / "bin/kill"
    kill.parent.mkdir(exist_ok=True)
    kill.write_text("#!/bin/sh\n")
    kill.chmod(0o755)
    places = tmp_path / "etc/systemd/system"
    places.mkdir(parents=True)
    system = Path("/usr/lib/systemd/system")
    for unit in system.glob("*.target"):
        (places / unit.name).write_text(unit.read_text())
    for unit in UNITS:
        (places / unit.name).write_text(unit.read_text())
    return [places / unit.name for unit in UNITS]


def test_systemd_accepts_the_units(units: list[Path], tmp_path: Path) -> None:
    names = [f"/etc/systemd/system/{unit.name}" for unit in units]

    said = run(tool("systemd-analyze"), "verify", f"--root={tmp_path}", "--man=no", *names)

    assert said == ""


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".timer"], ids=str)
def test_each_timer_has_its_service_and_a_valid_calendar(unit: Path) -> None:
    assert unit.with_suffix(".service").exists()
    (calendar,) = re.findall(r"OnCalendar=(.+)", unit.read_text())
    run(tool("systemd-analyze"), "calendar", calendar)
