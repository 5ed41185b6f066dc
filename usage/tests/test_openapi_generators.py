"""Clients that openapi-generator makes from the description send and read exact amounts.

They are generated, compiled and run only by `make soak`, which installs the generator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from pytest_django.plugin import DjangoDbBlocker

from usage.models import Customer
from usage.tests.books import default_database
from usage.tests.live import Service

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(600),
]

# Beyond 32 bits, and beyond what a double tells apart.
CUSTOMERS = (3_000_000_000, 2**53 + 1)
# As 32-bit floats these were 16777216 and 1234567.9.
UNITS = ("16777217", "1234567.89")
PRICE = "0.0000001"

PYTHON = """
import os, sys
from openapi_client import ApiClient, Configuration, Usage, UsageApi

configuration = Configuration(
    host=os.environ["BILLING_URL"], access_token=os.environ["BILLING_API_KEY"]
)
with ApiClient(configuration) as client:
    api = UsageApi(client)
    facts = [
        Usage(request_id=f"python:{customer}:{units}", customer_id=customer, service="CDN",
              units_consumed=units, price_per_unit=PRICE)
        for customer in CUSTOMERS for units in UNITS
    ]
    for fact in facts:
        for record in (api.record_usage(fact), api.record_usage(fact)):
            print(record.customer_id, record.units_consumed, record.amount, record.bill.id)
    answer = api.record_usage_batch(facts)
    print(answer.summary.created, answer.summary.replayed, answer.summary.rejected)
    for result in answer.results:
        record = result.record
        print(record.customer_id, record.units_consumed, record.amount, record.bill.id)
"""

GO = """
package main

import (
	"context"
	"fmt"
	"os"

	billing "github.com/GIT_USER_ID/GIT_REPO_ID"
)

func show(record *billing.UsageRecord) {
	fmt.Println(record.CustomerId, record.UnitsConsumed, record.Amount, record.Bill.Id)
}

func main() {
	configuration := billing.NewConfiguration()
	configuration.Servers = billing.ServerConfigurations{{URL: os.Getenv("BILLING_URL")}}
	key := os.Getenv("BILLING_API_KEY")
	ctx := context.WithValue(context.Background(), billing.ContextAccessToken, key)
	api := billing.NewAPIClient(configuration).UsageAPI
	facts := []billing.Usage{}
	for _, customer := range []int64{CUSTOMERS} {
		for _, units := range []string{UNITS} {
			id := fmt.Sprintf("go:%d:%s", customer, units)
			facts = append(facts, *billing.NewUsage(id, customer, "CDN", units, PRICE))
		}
	}
	for _, fact := range facts {
		for try := 0; try < 2; try++ {
			record, _, err := api.RecordUsage(ctx).Usage(fact).Execute()
			if err != nil {
				panic(err)
			}
			show(record)
		}
	}
	answer, _, err := api.RecordUsageBatch(ctx).Usage(facts).Execute()
	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Summary.Created, answer.Summary.Replayed, answer.Summary.Rejected)
	for _, result := range answer.Results {
		show(result.Record)
	}
}
"""


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("description") / "openapi.json"
    file.write_text(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))
    return file


@pytest.fixture(scope="module")
def service(live_service: Service, django_db_blocker: DjangoDbBlocker) -> Service:
    with django_db_blocker.unblock(), default_database(live_service.books.url):
        for customer in CUSTOMERS:
            Customer.objects.create(id=customer, name=str(customer))
    return live_service


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def generated(generator: str, description: Path, folder: Path) -> Path:
    command = Path(sys.executable).with_name("openapi-generator-cli")
    arguments = ["generate", "-g", generator, "-i", str(description), "-o", str(folder)]
    run(str(command), *arguments, cwd=folder)
    return folder


def assert_all_is_exact(said: str, service: Service, language: str) -> None:
    stored = [
        record
        for record in service.books.table("usage_usagerecord")
        if record["request_id"].startswith(f"{language}:")
    ]
    bills = {record["customer_id"]: record["bill_id"] for record in stored}
    amounts = {"16777217": "1.6777217", "1234567.89": "0.123456789"}
    each = [
        f"{customer} {units} {amounts[units]} {bills[customer]}"
        for customer in CUSTOMERS
        for units in UNITS
    ]
    assert said.splitlines() == [line for line in each for _ in range(2)] + ["0 4 0", *each]
    assert {
        (record["customer_id"], f"{record['units']:f}".rstrip("0").rstrip(".")) for record in stored
    } == {(customer, units) for customer in CUSTOMERS for units in UNITS}


def where(service: Service) -> dict[str, Any]:
    url = f"http://127.0.0.1:{service.port}"
    return {"BILLING_URL": url, "BILLING_API_KEY": service.books.key}


def test_a_generated_python_client(service: Service, description: Path, tmp_path: Path) -> None:
    generated("python", description, tmp_path)
    program = f"CUSTOMERS, UNITS, PRICE = {CUSTOMERS!r}, {UNITS!r}, {PRICE!r}\n{PYTHON}"

    said = run(sys.executable, "-c", program, cwd=tmp_path, **where(service))

    assert_all_is_exact(said, service, "python")


def test_a_generated_go_client(service: Service, description: Path, tmp_path: Path) -> None:
    generated("go", description, tmp_path)
    program = (
        GO.replace("CUSTOMERS", ", ".join(map(str, CUSTOMERS)))
        .replace("UNITS", ", ".join(map(json.dumps, UNITS)))
        .replace("PRICE", json.dumps(PRICE))
    )
    (tmp_path / "cmd").mkdir()
    (tmp_path / "cmd" / "main.go").write_text(program)
    run("go", "mod", "edit", "-go=1.19", cwd=tmp_path)

    said = run("go", "run", "./cmd", cwd=tmp_path, **where(service))

    assert_all_is_exact(said, service, "go")
