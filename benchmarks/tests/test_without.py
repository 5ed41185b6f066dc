"""Without any one of its optimisations the service answers the same, so each can be left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import ingest
from benchmarks.databases import run
from benchmarks.others import File
from benchmarks.without import OPTIMISATIONS, VARIABLE

pytestmark = pytest.mark.live  # each starts a process of its own

SCRIPT = """
import sys
from {module} import application
from django.test import RequestFactory

headers = {{"Authorization": sys.argv[1]}}
for request_id in ("same", sys.argv[2]):
    body = {{"request_id": request_id, "customer_id": 1, "service": "Größe", "units_consumed": 58}}
    body["price_per_unit"] = "0.05"
    requests = RequestFactory(SERVER_NAME="127.0.0.1", headers=headers)
    request = requests.post("/api/v1/usage/", body, content_type="application/json")
    answer = application(request.environ, lambda status, *_: print(status))
    print(b"".join(answer).decode())
"""


class Service(NamedTuple):
    """A database to answer from; each answer comes from a process of its own."""

    file: File
    authorization: str

    def answers(self, module: str, new_id: str, **variables: str) -> list[str]:
        """Statuses and bodies of two records: one with the same id each time, and a new one."""
        command = [sys.executable, "-c", SCRIPT.format(module=module), self.authorization, new_id]
        return run(command, {**self.file.environment, "DEBUG": "1", **variables}).splitlines()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    file = File(Path(tmp_path_factory.mktemp("books")) / "books.sqlite3")
    authorization = ingest.prepare(file.url)
    file.rows("INSERT INTO usage_customer (id, name, currency) VALUES (1, 'Alice', 'USD')")
    return Service(file, authorization)


@pytest.fixture(scope="module")
def first(service: Service) -> str:
    """The answer to a record when nothing is left out."""
    status, body, _, _ = service.answers("billing_project.wsgi", "with")
    assert status == "201 Created"
    return body


@pytest.mark.parametrize("name", OPTIMISATIONS)
def test_the_answers_are_the_same(service: Service, first: str, name: str) -> None:
    answers = service.answers("benchmarks.without", f"without-{name}", **{VARIABLE: name})

    assert answers[:3] == ["200 OK", first, "201 Created"]
    assert json.loads(answers[3]).keys() == json.loads(first).keys()
