"""``billing-client record`` and ``billing-client send``."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from billing_client.commands.main import main
from billing_client.tests.faulty import (
    KEY,
    Behaviour,
    Exchange,
    FaultyServer,
    honest,
    refuse,
    reply,
)
from billing_client.tests.outboxes import NO_SERVICE, ROOT, fact, hurried

HEADER = "request_id,customer_id,service,units_consumed,price_per_unit,occurred_at\n"
LINE = "cdn:{n},123,CDN Storage,58,0.05,2026-11-22T10:00:00Z\n"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _service(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_URL", server.url)
    monkeypatch.setenv("BILLING_API_KEY", KEY)


@pytest.fixture
def send(tmp_path: Path) -> Run:
    """Send a file with this content; return the status and the output."""

    def send(content: str | bytes, *options: str, name: str = "usage.csv") -> tuple[int, str]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        out = io.StringIO()
        return main(["send", str(path), *options], out), out.getvalue()

    return send


def lines(number: int) -> str:
    return HEADER + "".join(LINE.format(n=n) for n in range(number))


# record


RECORD = ["record", "--customer", "123", "--service", "CDN", "--units", "58", "--price", "0.05"]


def test_record_says_what_is_billed_and_is_safe_to_run_twice(server: FaultyServer) -> None:
    out = io.StringIO()
    command = [*RECORD, "--id", "cdn:1", "--occurred-at", "2026-11-22T10:00:00+01:00"]
    assert main(command, out) == 0
    assert main(command, out) == 0
    assert out.getvalue().splitlines() == [
        "cdn:1 recorded: 2.9 on bill 1 of 2026-11",
        "cdn:1 was recorded before: 2.9 on bill 1 of 2026-11",
    ]
    assert server.service.stored["cdn:1"]["occurred_at"] == "2026-11-22T09:00:00.000Z"


def test_record_needs_an_id(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(RECORD)
    assert "required: --id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        (["--units", "1,5"], 1, "'1,5'"),
        (["--customer", "404"], 1, "no customer with this id"),
        (["--id", "a b"], 1, "request_id"),
        (["--url", "http://127.0.0.1:1"], 2, "Connection refused"),
    ],
)
def test_record_tells_a_refusal_from_what_can_be_tried_again(
    capsys: pytest.CaptureFixture[str], changes: list[str], status: int, message: str
) -> None:
    url, rest = (changes, []) if changes[0] == "--url" else ([], changes)
    assert main([*url, *RECORD, "--id", "cdn:1", *rest]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("customer", ["0", "1_23", " 123", "１２３", "Bob", "9" * 5000])  # noqa: RUF001 - wide digits
def test_record_takes_no_customer_but_plain_digits(
    customer: str, server: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*RECORD, "--id", "cdn:1", "--customer", customer])
    assert "is not a whole number from 1 to 9223372036854775807" in capsys.readouterr().err
    assert server.seen == []


@pytest.mark.parametrize("time", ["2026-11-22", "2026-11-22T10:00:00", "yesterday"])
def test_record_takes_no_time_without_an_offset(time: str) -> None:
    with pytest.raises(SystemExit):
        main([*RECORD, "--id", "cdn:1", "--occurred-at", time])


# send


@pytest.mark.no_cover  # other tests measure this code
def test_every_line_is_recorded_once_however_often_it_is_sent(
    send: Run, server: FaultyServer
) -> None:
    assert send(lines(2500)) == (
        0,
        "2,500 lines: 2,500 recorded, 0 refused, 0 not sent or without an answer.\n",
    )
    status, out = send(lines(2501))
    assert status == 0
    assert "2,501 lines: 2,501 recorded (2,500 of them before), 0 refused, 0 not sent" in out
    assert len(server.service.stored) == 2501


FORMS = {
    "a byte-order mark and CRLF": ("\ufeff" + lines(2)).replace("\n", "\r\n"),
    "semicolons, as Excel writes them": lines(2).replace(",", ";"),
    "tabs": lines(2).replace(",", "\t"),
    "names in camelCase and spaces around them": lines(2).replace("customer_id", " customerId "),
    "empty lines": lines(2).replace("\n", "\n\n") + ",,,,,\n",
    "other columns": lines(2).replace(",service", ",note,service").replace(",CDN", ',"a, b",CDN'),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=list(FORMS))
def test_files_are_read_as_programs_write_them(
    send: Run, server: FaultyServer, content: str
) -> None:
    assert send(content)[0] == 0
    assert list(server.service.stored) == ["cdn:0", "cdn:1"]


def test_columns_can_have_other_names_and_ids_and_times_other_sources(
    send: Run, server: FaultyServer
) -> None:
    content = "date;Kunde;service;Menge;price_per_unit\n2026-11-22;7;CDN;1.5;0.1\n"
    names = ["--column", "customer_id=Kunde", "--column", "units_consumed=Menge"]
    made = ["--id-from", "cdn:{date}:{Kunde}", "--occurred-at", "2026-11-22T10:00:00Z"]
    assert send(content, *names, *made)[0] == 0
    record = server.service.stored["cdn:2026-11-22:7"]
    assert (record["customer_id"], record["units_consumed"]) == (7, "1.5")
    assert record["occurred_at"] == "2026-11-22T10:00:00.000Z"


REFUSED_FILES = {
    "no ids": ("customer_id,service,units_consumed,price_per_unit,occurred_at\n", [], "--id-from"),
    "no times": (
        "request_id,customer_id,service,units_consumed,price_per_unit\n",
        [],
        "--occurred-at",
    ),
    "ids twice": (HEADER, ["--id-from", "{service}"], "leave --id-from out"),
    "times twice": (HEADER, ["--occurred-at", "2026-11-22T10:00:00Z"], "leave --occurred-at out"),
    "no price": (HEADER.replace("price_per_unit", "price"), [], "no column price_per_unit"),
    "no such column": (HEADER, ["--column", "service=Dienst"], "no column 'Dienst'"),
    "an empty file": ("", [], "no header"),
    "JSON taken for CSV": ('{"request_id": "cdn:0", "customer_id": 1}\n', [], "--format ndjson"),
    "a header with half a quote": (HEADER.replace("service", '"service"x'), [], "as CSV"),
    "a column twice": (HEADER.replace("occurred_at", "service,occurred_at"), [], "more than one"),
    "both spellings": (HEADER.replace("service", "service,requestId"), [], "both request_id and"),
    "ids from no column": (
        HEADER.replace("request_id,", ""),
        ["--id-from", "cdn:{date}"],
        "no column date for --id-from",
    ),
    "UTF-16": (HEADER.encode("utf-16"), [], "UTF-16"),
}


@pytest.mark.parametrize(
    ("content", "options", "why"), REFUSED_FILES.values(), ids=list(REFUSED_FILES)
)
def test_a_file_without_what_must_not_be_made_up_is_refused(
    send: Run,
    server: FaultyServer,
    capsys: pytest.CaptureFixture[str],
    content: str | bytes,
    options: list[str],
    why: str,
) -> None:
    assert send(content, *options) == (2, "")
    assert why in capsys.readouterr().err
    assert server.seen == []


def test_a_column_of_an_id_may_have_any_name(send: Run, server: FaultyServer) -> None:
    content = HEADER.replace("request_id", "usage.id") + LINE.format(n=0)
    assert send(content, "--id-from", "{{{usage.id}}}")[0] == 0
    assert list(server.service.stored) == ["{cdn:0}"]


BAD_LINES = {
    "a decimal comma": ('cdn:9,1,x,"1,5",1,2026-11-22T10:00:00Z', "column units_consumed", "'1,5'"),
    "an exponent": (
        "cdn:9,1,x,1.2E+15,1,2026-11-22T10:00:00Z",
        "column units_consumed",
        "'1.2E+15'",
    ),
    "an unquoted comma": ("cdn:9,1,x,1,5,1,2026-11-22T10:00:00Z", "7 cells", "header has 6"),
    "a customer in words": ("cdn:9,Bob,x,1,1,2026-11-22T10:00:00Z", "column customer_id", "'Bob'"),
    "leading zeros": ("cdn:9,007,x,1,1,2026-11-22T10:00:00Z", "column customer_id", "'007'"),
    "no id": (",1,x,1,1,2026-11-22T10:00:00Z", "column request_id", "''"),
    "no offset": ("cdn:9,1,x,1,1,2026-11-22T10:00:00", "column occurred_at", "has no offset"),
    "no time": ("cdn:9,1,x,1,1,", "column occurred_at", "is not a time"),
    "the same line again": (LINE.format(n=0).strip(), "cdn:0", "of line 2"),
    "the id of another line": ("cdn:0,1,x,1,1,2026-11-22T10:00:00Z", "cdn:0", "of line 2"),
    "an unknown customer": ("cdn:9,404,x,1,1,2026-11-22T10:00:00Z", "cdn:9", "add the customer"),
}


@pytest.mark.parametrize(("bad", "where", "why"), BAD_LINES.values(), ids=list(BAD_LINES))
def test_a_bad_line_is_named_and_stops_no_other(
    send: Run, server: FaultyServer, bad: str, where: str, why: str
) -> None:
    status, out = send(lines(2) + bad + "\n" + LINE.format(n=2))
    assert status == 1
    assert out.startswith("4 lines: 3 recorded, 1 refused, 0 not sent")
    (problem,) = [line for line in out.splitlines() if line.startswith("line 4")]
    assert where in problem
    assert why in problem
    assert "run the same command again: recorded lines are not billed twice" in out
    assert sorted(server.service.stored) == ["cdn:0", "cdn:1", "cdn:2"]


def test_a_cell_that_is_not_utf_8_spoils_only_its_line(send: Run, server: FaultyServer) -> None:
    content = lines(1).encode() + "cdn:9,1,Größe,1,1,2026-11-22T10:00:00Z\n".encode("latin-1")
    status, out = send(content)
    assert (status, list(server.service.stored)) == (1, ["cdn:0"])
    assert "line 3 (cdn:9): column service: is not UTF-8" in out


def test_lines_are_counted_as_an_editor_does_also_after_a_cell_of_several(send: Run) -> None:
    content = (
        HEADER.replace(",service", ",note,service")
        + 'a,1,"x\ny",s,1,1,2026-11-22T10:00:00Z\nb,z,,s,1,1,\n'
    )
    assert "line 4 (b): column customer_id" in send(content)[1]


def test_an_unmatched_quote_ends_the_file_where_it_is(send: Run, server: FaultyServer) -> None:
    status, out = send(lines(2) + 'cdn:9,1,"x,1,1,2026-11-22T10:00:00Z\n' + LINE.format(n=3))
    assert status == 1
    assert out.startswith("3 lines: 2 recorded, 1 refused")
    assert "line 4: cannot be read" in out
    assert sorted(server.service.stored) == ["cdn:0", "cdn:1"]


def ndjson(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


RECORD_OBJECT = {
    "request_id": "cdn:0",
    "customer_id": "9007199254740993",
    "service": "CDN",
    "units_consumed": 1234567.89,
    "price_per_unit": "0.0000001",
    "occurred_at": "2026-11-22T10:00:00Z",
}


def test_ndjson_is_exact(send: Run, server: FaultyServer) -> None:
    assert send(ndjson(RECORD_OBJECT), name="usage.ndjson")[0] == 0
    record = server.service.stored["cdn:0"]
    assert (record["customer_id"], record["units_consumed"]) == (2**53 + 1, "1234567.89")
    assert record["price_per_unit"] == "0.0000001"


def test_what_export_writes_can_be_sent(send: Run, server: FaultyServer, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    with hurried(NO_SERVICE, outbox) as billing:
        billing.enqueue(fact("one"))
        billing.enqueue(fact("two"))
    exported = io.StringIO()
    main(["export", "--outbox", str(outbox)], exported)
    assert send(exported.getvalue(), "--format", "ndjson")[0] == 0
    assert sorted(server.service.stored) == ["one", "two"]


def test_neither_command_opens_an_outbox(
    send: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would send its records too, and could be another service's."""
    monkeypatch.setenv("BILLING_OUTBOX_DIR", str(tmp_path / "usage.csv"))  # no directory at all
    assert main([*RECORD, "--id", "cdn:1"], io.StringIO()) == 0
    assert send(lines(1))[0] == 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON: expecting property name"),
        ('"a\tb"', "is not JSON: invalid control character at column 3"),
        ('{"a": 1, "a": 2}', "a key is given twice"),
        ("7", "is not a JSON object"),
        ("{}", "has no field customer_id"),
        (ndjson({**RECORD_OBJECT, "units_consumed": 1.2e20}), "'1.2e+20'"),
        (ndjson({**RECORD_OBJECT, "occurred_at": 7}), "is not a time"),
        (ndjson({**RECORD_OBJECT, "customer_id": 1.5}), "customer_id"),
        (ndjson({**RECORD_OBJECT, "request_id": None}), "has null for request_id"),
        (ndjson({**RECORD_OBJECT, "occurred_at": None}), "has null for occurred_at"),
        (ndjson({**RECORD_OBJECT, "requestId": "cdn:1"}), "both request_id and requestId"),
    ],
)
def test_a_bad_object_is_named(send: Run, server: FaultyServer, line: str, why: str) -> None:
    status, out = send(f"\n{line}\n", name="usage.ndjson")
    assert (status, server.service.stored) == (1, {})
    assert out.splitlines()[1].startswith("line 2")
    assert why in out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--id-from", "{service}"], "has an id; leave --id-from out"),
        (["--occurred-at", "2026-11-22T10:00:00Z"], "has a time; leave --occurred-at out"),
    ],
)
def test_an_object_with_two_sources_of_its_id_or_time_is_refused(
    send: Run, options: list[str], why: str
) -> None:
    assert why in send(ndjson(RECORD_OBJECT), *options, name="usage.ndjson")[1]


def test_an_id_is_not_made_of_null(send: Run, server: FaultyServer) -> None:
    line = ndjson({**RECORD_OBJECT, "day": None}).replace('"request_id": "cdn:0", ', "")
    status, out = send(line, "--id-from", "cdn:{day}", name="usage.ndjson")
    assert (status, server.seen) == (1, [])
    assert "column day: is empty" in out


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(",58,", ",0,"), (",123,", ",Bob,"), ("T10:00:00Z", "T10:00:00"), ("CDN", "\udce9")],
)
def test_an_id_is_taken_by_its_first_line_also_if_that_is_refused(
    send: Run, server: FaultyServer, right: str, wrong: str
) -> None:
    """Or the corrected file would have it twice."""
    bad = LINE.format(n=0).replace(right, wrong).encode(errors="surrogateescape")
    out = send(HEADER.encode() + bad + LINE.format(n=0).encode())[1]
    assert "line 2 (cdn:0): column" in out
    assert "line 3 (cdn:0): has the id cdn:0 of line 2" in out
    assert server.seen == []


def test_a_dry_run_needs_no_service(
    send: Run, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILLING_URL")
    assert send(lines(3), "--dry-run") == (0, "3 lines checked, 0 refused; nothing was sent.\n")
    status, out = send(lines(3) + LINE.format(n=0), "--dry-run")
    assert (status, "of line 2" in out, server.seen) == (1, True, [])


def test_the_result_file_has_every_line(send: Run, tmp_path: Path) -> None:
    bad = "".join(
        f"{name},{customer},x,{units},1,2026-11-22T10:00:00Z\n"
        for name, customer, units in (("cdn:7", "Bob", 1), ("cdn:8", 1, 0), ("cdn:9", 404, 1))
    )
    result = tmp_path / "result.csv"
    assert send(lines(1) + bad, "--result", str(result))[0] == 1
    rows = {row["id"]: row for row in csv.DictReader(result.read_text().splitlines())}
    good = rows["cdn:0"]
    assert (good["line"], good["status"], good["amount"]) == ("2", "created", "2.9")
    assert (good["bill"], good["month"], good["problem"]) == ("1", "2026-11", "")
    assert [rows[name]["status"] for name in ("cdn:7", "cdn:8", "cdn:9")] == ["rejected"] * 3
    assert "units_consumed is 0" in rows["cdn:8"]["problem"]


def test_the_result_never_replaces_the_file(send: Run, tmp_path: Path) -> None:
    assert send(lines(1), "--result", str(tmp_path / "usage.csv"))[0] == 2
    assert (tmp_path / "usage.csv").read_text() == lines(1)


def test_a_service_that_goes_away_in_the_middle(send: Run, server: FaultyServer) -> None:
    gone = threading.Event()

    def leave(exchange: Exchange) -> None:
        honest(exchange)
        exchange.server.script.extend([refuse(503, "service_unavailable")] * 9)
        gone.set()

    server.script.append(leave)
    status, out = send(lines(3001), "--connections", "1")
    assert status == 1
    assert out.startswith("3,001 lines: 1,000 recorded, 0 refused, 2,001 not sent or without")
    assert "Stopped: The service answered 503" in out
    assert out.endswith("Run the same command again: recorded lines are not billed twice.\n")


def test_ctrl_c_says_what_was_done(
    send: Run, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("billing_client.commands.send._Bar.show", interrupt)
    status, out = send(lines(1000), "--connections", "1")
    assert status == 130
    assert out.startswith("1,000 lines: 1,000 recorded, 0 refused, 0 not sent")


def on_a_terminal(*arguments: str, given: str = "") -> tuple[int, str, str]:
    """The status, stdout and stderr of a run whose stderr is a terminal."""
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "billing_client", "send", *arguments],
        cwd=ROOT,
        check=False,
        input=given.encode(),
        stdout=subprocess.PIPE,
        stderr=follower,
        timeout=60,
    )
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    return done.returncode, done.stdout.decode(), shown


@pytest.mark.live  # starts processes
def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    (tmp_path / "usage.csv").write_text(lines(1500))
    status, out, shown = on_a_terminal(str(tmp_path / "usage.csv"))
    assert (status, out[:12]) == (0, "1,500 lines:")
    assert re.search(r"\[#+ *\] +\d+% 1,\d{3} lines", shown)


@pytest.mark.live  # starts processes
def test_standard_input_is_read_and_counted() -> None:
    status, out, shown = on_a_terminal("-", given=lines(1500))
    assert (status, out[:12]) == (0, "1,500 lines:")
    assert "lines" in shown
    assert "%" not in shown


def test_many_problems_are_cut_short(send: Run) -> None:
    bad = "".join(f"cdn:b{n},1,x,0,1,2026-11-22T10:00:00Z\n" for n in range(25))
    out = send(HEADER + bad)[1].splitlines()
    assert len([line for line in out if line.startswith("line ")]) == 20
    assert "and 5 more refused lines" in out


@pytest.mark.parametrize(
    "options",
    [
        ["--column", "x=y"],
        ["--column", "service"],
        ["--connections", "0"],
        ["--id-from", "cdn"],
        ["--id-from", "{a.b}x{0!r}"],
    ],
)
def test_options_that_mean_nothing_are_refused(send: Run, options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        send(lines(1), *options)
    assert ended.value.code == 2


def test_a_field_comes_from_one_column(
    send: Run, server: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--column", "service=service", "--column", "service=request_id"]
    assert send(lines(1), *columns) == (2, "")
    assert "--column names service twice" in capsys.readouterr().err
    assert server.seen == []


@pytest.mark.parametrize("wrong", [refuse(401, "not_authenticated"), reply(301, Location="/x")])
def test_a_wrong_setting_is_to_be_corrected_first(
    send: Run, server: FaultyServer, wrong: Behaviour
) -> None:
    server.script.append(wrong)
    status, out = send(lines(1))
    assert status == 2
    assert "Correct what stopped it, then run the same command again" in out


def test_a_missing_file_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "/nowhere/usage.csv"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_an_answer_that_makes_no_sense_is_tried_again(send: Run, server: FaultyServer) -> None:
    server.script.append(reply(207, b"<html>"))
    assert send(lines(3))[0] == 0
