"""Settings come from the environment, deny by default, and name the variable that is malformed."""

import contextlib
import logging
import os
import runpy
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.db.utils import ConnectionHandler
from django.test import Client
from pytest_django import DjangoDbBlocker, Settings

from billing_project.log import OneLineFormatter

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = {
    "SECRET_KEY": "fifty-and-more-characters-that-are-as-good-as-random-0123456789",
    "ALLOWED_HOSTS": "billing.example.com",
    "SECURE_HSTS_SECONDS": "31536000",
}
Load = Callable[..., dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of the settings alone, without the .env of whoever runs the tests."""
    (tmp_path / "billing_project").mkdir()
    shutil.copy(ROOT / "billing_project" / "settings.py", tmp_path / "billing_project")
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path)
    return tmp_path


@pytest.fixture
def load(project: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the settings with an environment of these variables alone."""

    def load(**variables: str) -> dict[str, Any]:
        monkeypatch.setattr(os, "environ", variables)
        return runpy.run_path(str(project / "billing_project" / "settings.py"))

    return load


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DEBUG": "0"} | variables
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_production_denies_what_is_not_allowed(load: Load) -> None:
    settings = load(SECRET_KEY="k")
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == []
    assert settings["CSRF_TRUSTED_ORIGINS"] == []
    assert settings["SECURE_SSL_REDIRECT"] is True
    assert settings["SESSION_COOKIE_SECURE"] is True
    assert settings["CSRF_COOKIE_SECURE"] is True


def test_a_service_on_ones_own_machine_needs_only_debug(load: Load) -> None:
    settings = load(DEBUG="1")
    assert settings["SECRET_KEY"]
    assert settings["SECURE_SSL_REDIRECT"] is False
    assert settings["SESSION_COOKIE_SECURE"] is False
    assert settings["CSRF_COOKIE_SECURE"] is False


@pytest.mark.parametrize("environment", [{}, {"SECRET_KEY": ""}, {"DEBUG": "0"}])
def test_without_debug_a_missing_secret_key_stops_the_start(
    load: Load, environment: dict[str, str]
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY is not set: set it to .* DEBUG=1"):
        load(**environment)


def test_dotenv_is_read(project: Path, load: Load) -> None:
    (project / ".env").write_text("DEBUG=1\nBILLING_GRACE_DAYS=7\n")
    assert load()["DEBUG"] is True
    assert load()["BILLING_GRACE_DAYS"] == 7


def test_the_environment_wins_over_dotenv(project: Path, load: Load) -> None:
    (project / ".env").write_text("DEBUG=1\n")
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY is not set"):
        load(DEBUG="0")


def test_dotenv_is_taken_as_it_is_written(project: Path, load: Load) -> None:
    (project / ".env").write_text("SECRET_KEY='k'\nDATABASE_URL=postgres://u:a${b}$c@h/billing\n")
    assert load(b="other")["DATABASES"]["default"]["PASSWORD"] == "a${b}$c"


def test_gunicorn_reads_dotenv_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ["DEBUG=1", "WEB_CONCURRENCY=3", "FORWARDED_ALLOW_IPS=10.0.0.0/8"]
    (project / ".env").write_text("\n".join(variables))
    monkeypatch.setattr(os, "environ", {})

    gunicorn = runpy.run_path(str(project / "gunicorn.conf.py"))

    assert gunicorn["workers"] == 3
    assert gunicorn["forwarded_allow_ips"] == "10.0.0.0/8,::ffff:10.0.0.0/104"


def test_gunicorn_starts_as_documented_without_variables(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"DEBUG": "1"})

    gunicorn = runpy.run_path(str(project / "gunicorn.conf.py"))

    assert gunicorn["workers"] == 1
    assert gunicorn["forwarded_allow_ips"].startswith("127.0.0.1/32,::1/128,")


def test_billing_settings_have_the_documented_defaults(load: Load) -> None:
    settings = load(SECRET_KEY="k")
    assert settings["BILLING_TIME_ZONE"] == settings["TIME_ZONE"] == "UTC"
    assert settings["BILLING_GRACE_DAYS"] == 3


@pytest.mark.parametrize(
    ("variable", "value", "setting", "expected"),
    [
        ("SECRET_KEY", "k2", "SECRET_KEY", "k2"),
        ("DEBUG", "1", "DEBUG", True),
        ("ALLOWED_HOSTS", "", "ALLOWED_HOSTS", []),
        ("ALLOWED_HOSTS", "a.example, .b.example", "ALLOWED_HOSTS", ["a.example", ".b.example"]),
        ("ALLOWED_HOSTS", "10.0.0.1,[::1]", "ALLOWED_HOSTS", ["10.0.0.1", "[::1]"]),
        ("ALLOWED_HOSTS", "*", "ALLOWED_HOSTS", ["*"]),
        (
            "CSRF_TRUSTED_ORIGINS",
            "https://a.example:8443",
            "CSRF_TRUSTED_ORIGINS",
            ["https://a.example:8443"],
        ),
        (
            "CSRF_TRUSTED_ORIGINS",
            "https://*.a.example",
            "CSRF_TRUSTED_ORIGINS",
            ["https://*.a.example"],
        ),
        ("SECURE_SSL_REDIRECT", "0", "SECURE_SSL_REDIRECT", False),
        ("SECURE_COOKIES", "0", "SESSION_COOKIE_SECURE", False),
        ("SECURE_COOKIES", "0", "CSRF_COOKIE_SECURE", False),
        ("SECURE_HSTS_SECONDS", "3600", "SECURE_HSTS_SECONDS", 3600),
        ("BILLING_TIME_ZONE", "Europe/Vienna", "BILLING_TIME_ZONE", "Europe/Vienna"),
        ("BILLING_TIME_ZONE", "Europe/Vienna", "TIME_ZONE", "Europe/Vienna"),
        ("BILLING_GRACE_DAYS", "0", "BILLING_GRACE_DAYS", 0),
        ("BILLING_GRACE_DAYS", "366", "BILLING_GRACE_DAYS", 366),
        ("FORWARDED_ALLOW_IPS", "*", "FORWARDED_ALLOW_IPS", ["*"]),
        (
            "FORWARDED_ALLOW_IPS",
            "10.0.0.0/8, ::1",
            "FORWARDED_ALLOW_IPS",
            [ip_network("10.0.0.0/8"), ip_network("::1")],
        ),
    ],
)
def test_a_variable_sets_its_setting(
    load: Load, variable: str, value: str, setting: str, expected: object
) -> None:
    assert load(**{"SECRET_KEY": "k", variable: value})[setting] == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEBUG", "perhaps"),
        ("DEBUG", ""),
        ("ALLOWED_HOSTS", "https://billing.example.com"),
        ("ALLOWED_HOSTS", "billing.example.com:8000"),
        ("ALLOWED_HOSTS", "a.example,,b.example"),
        ("ALLOWED_HOSTS", "billing_service"),
        ("ALLOWED_HOSTS", "[10.0.0.1]"),
        ("CSRF_TRUSTED_ORIGINS", "billing.example.com"),
        ("CSRF_TRUSTED_ORIGINS", "https://billing.example.com/path"),
        ("SECURE_SSL_REDIRECT", "2"),
        ("SECURE_COOKIES", "secure"),
        ("SECURE_HSTS_SECONDS", "-1"),
        ("SECURE_HSTS_SECONDS", "1 year"),
        ("BILLING_TIME_ZONE", ""),
        ("BILLING_TIME_ZONE", "Europe"),
        ("BILLING_TIME_ZONE", "Mars/Olympus"),
        ("BILLING_TIME_ZONE", "../../etc/localtime"),
        ("BILLING_TIME_ZONE", "localtime"),
        ("BILLING_TIME_ZONE", "Factory"),
        ("BILLING_TIME_ZONE", "right/Europe/Vienna"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "many"),
        ("BILLING_GRACE_DAYS", "-1"),
        ("BILLING_GRACE_DAYS", "367"),
        ("BILLING_GRACE_DAYS", "2.5"),
        ("FORWARDED_ALLOW_IPS", "proxy.internal"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
    ],
)
def test_a_malformed_value_stops_the_start_with_its_name(
    load: Load, variable: str, value: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as error:
        load(**{"SECRET_KEY": "k", variable: value})
    assert str(error.value).startswith(f"{variable} is {value!r}, but must be ")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "billing",
        "mysql://user:hush@host/billing",
        "postgres://user:hush@host/billing?target_sesion_attrs=read-write",
        "postgres://user:hush@host",
        "postgres://user:hush@host:port/billing",
        "postgres://user:hu[sh@host/billing",
        "sqlite://",
        "sqlite:///",
        "sqlite://:memory:",
        "sqlite:///billing.sqlite3?transaction_mode=DEFERRED",
    ],
)
def test_a_malformed_address_of_a_database_is_refused_and_not_shown(load: Load, url: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"^DATABASE_URL is malformed, but must be "
    ) as error:
        load(SECRET_KEY="k", DATABASE_URL=url)
    assert "hush" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("variables", "file"),
    [
        ({}, "db.sqlite3"),
        ({"DATABASE_URL": "sqlite:///other.sqlite3"}, "other.sqlite3"),
        ({"DATABASE_URL": "sqlite:////var/billing.sqlite3"}, "/var/billing.sqlite3"),
    ],
)
def test_an_sqlite_file_is_found_from_any_folder(
    load: Load, project: Path, variables: dict[str, str], file: str
) -> None:
    assert load(SECRET_KEY="k", **variables)["DATABASES"]["default"]["NAME"] == project / file


def test_an_sqlite_connection_waits_writes_through_and_keeps_its_guards(
    load: Load, django_db_blocker: DjangoDbBlocker
) -> None:
    database = ConnectionHandler(load(SECRET_KEY="k")["DATABASES"])["default"]
    with django_db_blocker.unblock(), contextlib.closing(database), database.cursor() as cursor:
        pragmas = {
            name: cursor.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "journal_mode",
                "synchronous",
                "foreign_keys",
                "recursive_triggers",
                "busy_timeout",
            )
        }
        assert cursor.patience == 5
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "busy_timeout": 0,  # it waits in a way of its own
    }


def test_an_sqlite_transaction_takes_the_write_lock_at_once(load: Load) -> None:
    assert (
        load(SECRET_KEY="k")["DATABASES"]["default"]["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    )


def test_a_postgresql_address_is_read(load: Load) -> None:
    url = "postgres://billing:p%40ss@db.example:5433/billing"
    database = load(SECRET_KEY="k", DATABASE_URL=url)["DATABASES"]["default"]
    assert database["ENGINE"] == "usage.database.postgresql"
    assert (database["USER"], database["PASSWORD"]) == ("billing", "p@ss")
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("db.example", 5433, "billing")
    assert database["CONN_MAX_AGE"] > 0
    assert database["CONN_HEALTH_CHECKS"] is True


@pytest.mark.parametrize("host", ["%2Ftmp%2FSocket_A", "%2Ftmp%2FSocket_A:5433"])
def test_a_postgresql_socket_folder_keeps_its_case(load: Load, host: str) -> None:
    database = load(SECRET_KEY="k", DATABASE_URL=f"postgres://u@{host}/billing")["DATABASES"][
        "default"
    ]
    assert database["HOST"] == "/tmp/Socket_A"
    assert database["NAME"] == "billing"


def test_options_of_a_postgresql_address_are_added_to_the_limits(load: Load) -> None:
    url = (
        "postgres://u@h/b?sslmode=verify-full&connect_timeout=9&options=-c%20statement_timeout%3D0"
    )
    options = load(SECRET_KEY="k", DATABASE_URL=url)["DATABASES"]["default"]["OPTIONS"]
    assert options["sslmode"] == "verify-full"
    assert options["connect_timeout"] == 9
    assert (
        options["options"]
        == "-c lock_timeout=2000 -c statement_timeout=5000 -c statement_timeout=0"
    )


def test_a_postgresql_host_that_vanishes_is_noticed_within_ten_seconds(load: Load) -> None:
    url = "postgres://u@h/b"
    options = load(SECRET_KEY="k", DATABASE_URL=url)["DATABASES"]["default"]["OPTIONS"]

    assert options["connect_timeout"] == 3
    assert options["tcp_user_timeout"] == 10_000  # milliseconds, with data under way
    probes = options["keepalives_interval"] * options["keepalives_count"]
    assert options["keepalives_idle"] + probes == 10  # without


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "postgresql", reason="asks a PostgreSQL server")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lock_timeout", "2s"),
        ("statement_timeout", "5s"),
        ("transaction_isolation", "read committed"),
    ],
)
def test_a_postgresql_connection_has_its_limits(name: str, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        assert cursor.fetchone() == (value,)


@pytest.mark.no_cover
@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_not_redirected_to_https(settings: Settings, path: str) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert Client().get(path).status_code != 301


def test_all_else_is_redirected_to_https(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert Client().get("/admin/")["Location"] == "https://testserver/admin/"


@pytest.mark.django_db  # the end of an answer looks after the connections
def test_static_files_need_no_collection_on_ones_own_machine() -> None:
    with contextlib.closing(Client().get("/static/admin/css/base.css")) as answer:
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer


@pytest.mark.live  # starts processes
def test_production_settings_pass_the_deployment_check() -> None:
    check = manage("check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert check.returncode == 0, check.stderr


@pytest.mark.live  # starts processes
def test_a_command_without_secret_key_ends_with_one_sentence() -> None:
    check = manage("check")
    assert check.returncode == 2
    assert check.stderr.startswith("SECRET_KEY is not set: ")
    assert check.stderr.count("\n") == 1


def test_a_log_record_is_one_line_in_utc() -> None:
    record = logging.LogRecord(
        "usage", logging.ERROR, __file__, 1, "first\nsecond\x1b[2J Größe", None, None
    )
    record.created, record.msecs = 0.0, 7.0
    line = OneLineFormatter("{asctime} {message}", style="{").format(record)
    assert line == r"1970-01-01T00:00:00.007Z first\nsecond\x1b[2J Größe"
