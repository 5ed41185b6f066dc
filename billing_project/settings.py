"""The settings of the service, read from the environment; they deny by default.

A file ``.env`` beside manage.py, such as `make run` writes, is read too; the environment wins.
"""

import datetime as dt
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from dotenv import dotenv_values
from environs import Env, EnvError, ValidationError, validate
from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn

BASE_DIR = Path(__file__).resolve().parent.parent


class Environment(Env):
    """Reads .env literally: ${b} in a password is not replaced."""

    def _load_dotenv(self, path: str | Path, *, override: bool = False) -> None:
        for name, value in dotenv_values(path, interpolate=False).items():
            if value is not None and (override or name not in self._environ):
                self._environ[name] = value


env = Environment()
env.read_env(BASE_DIR / ".env", recurse=False)

Value = TypeVar("Value")


def setting(
    parse: Callable[..., Value],
    name: str,
    default: Value,
    *,
    expected: str,
    secret: bool = False,
    **options: Any,
) -> Value:
    """One variable of the environment.

    Raises ImproperlyConfigured with a sentence that names the variable if it cannot be parsed.
    """
    try:
        return parse(name, default=default, **options)
    except EnvError as error:
        given = "malformed" if secret else repr(env.str(name))
        # A secret would show in the chain of errors that is printed.
        cause = None if secret else error
        raise ImproperlyConfigured(f"{name} is {given}, but must be {expected}.") from cause


def switch(name: str, *, default: bool) -> bool:
    """A variable that is 1 or 0."""
    return setting(env.bool, name, default, expected="1 or 0")


def matching(pattern: str) -> Callable[[str], str]:
    """Parses one part of a list, which must match the pattern as a whole."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text.strip()):
            raise ValidationError(f"{text!r} is malformed.")
        return text.strip()

    return parse


def proxies(text: str) -> IPv4Network | IPv6Network | str:
    """Parses an address or a network, as gunicorn does, or a star for every one."""
    if text.strip() == "*":
        return "*"
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise ValidationError(f"{text!r} is not a network.") from error


# Who may reach the service, and how

DEBUG = switch("DEBUG", default=False)

SECRET_KEY = env.str("SECRET_KEY", default="")
if DEBUG and not SECRET_KEY:
    SECRET_KEY = "insecure-and-only-for-a-service-that-no-one-else-can-reach"  # noqa: S105 - no secret
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set: set it to 50 or more random characters that only this service "
        "knows, or set DEBUG=1 (as `make run` does) for a service on your own machine."
    )

IP_V6 = r"\[[0-9A-Fa-f]*:[0-9A-Fa-f.:]+\]"
# Django answers 400 to every Host with an underscore; a proxy in front may still be called so.
HOST_NAME = rf"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|{IP_V6}"
ORIGIN_NAME = rf"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|{IP_V6}"
ALLOWED_HOSTS: list[str] = setting(
    env.list,
    "ALLOWED_HOSTS",
    [],
    expected="host names of letters, digits, hyphens and points, separated by commas,"
    " without scheme and port, such as billing.example.com",
    subcast=matching(rf"\*|\.?({HOST_NAME})"),
)
CSRF_TRUSTED_ORIGINS: list[str] = setting(
    env.list,
    "CSRF_TRUSTED_ORIGINS",
    [],
    expected="origins separated by commas, with their scheme, such as https://billing.example.com",
    subcast=matching(rf"https?://(\*\.)?({ORIGIN_NAME})(:[0-9]+)?"),
)

SECURE_SSL_REDIRECT = switch("SECURE_SSL_REDIRECT", default=not DEBUG)
SECURE_HSTS_SECONDS = setting(
    env.int,
    "SECURE_HSTS_SECONDS",
    0,
    expected="a whole number of seconds, 0 or more",
    validate=validate.Range(min=0),
)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = switch("SECURE_COOKIES", default=not DEBUG)
SESSION_COOKIE_AGE = 12 * 60 * 60  # a working day; staff log in once
SILENCED_SYSTEM_CHECKS = [
    # Whether every subdomain speaks HTTPS, and whether browsers are told so for ever,
    # is for the owner of the domain to say, not for one service on it.
    "security.W005",
    "security.W021",
]

# Billing


def time_zone(name: str) -> None:
    """Checks that this is the name of a time zone in the IANA database."""
    # Files beside the zones: localtime is another zone on each machine, right/ counts leap seconds.
    if name.partition("/")[0] in {"localtime", "posixrules", "Factory", "posix", "right"}:
        raise ValidationError(f"{name!r} is not the name of a time zone.")
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValidationError(f"{name!r} is not a time zone.") from error


def address(text: str | None) -> tuple[str, int] | None:
    """Parses host:port, such as 127.0.0.1:9464 or [::1]:9464; None or no text is none."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValidationError(f"{text!r} is not an address with a port.")
    return host.strip("[]"), int(port)


env.add_parser("address", address)

BILLING_TIME_ZONE = setting(
    env.str,
    "BILLING_TIME_ZONE",
    "UTC",
    expected="the name of a time zone in the IANA database, such as Europe/Vienna",
    validate=time_zone,
)
BILLING_GRACE_DAYS = setting(
    env.int,
    "BILLING_GRACE_DAYS",
    3,
    expected="a whole number of days from 0 to 366, the age after which usage is refused",
    validate=validate.Range(min=0, max=366),
)
# In each bill's own currency. Totals and days below it are never called unusual.
ATTENTION_FLOOR = setting(
    env.int,
    "ATTENTION_FLOOR",
    100,
    expected="a whole number of units of currency, 0 or more, such as 100",
    validate=validate.Range(min=0),
)
# Who sends the statements: one line of print for each part.
SELLER: list[str] = setting(
    env.list,
    "SELLER",
    [],
    expected="the company's name, address and tax number, separated by |",
    subcast=str.strip,
    delimiter="|",
)

# What operators see

METRICS_ADDRESS: tuple[str, int] | None = setting(
    env.address,
    "METRICS_ADDRESS",
    None,
    expected="an address and a port that only Prometheus reaches, such as 127.0.0.1:9464",
)
ACCESS_LOG = switch("ACCESS_LOG", default=False)
LOG_FORMAT = setting(
    env.str,
    "LOG_FORMAT",
    "text",
    expected="text or json",
    validate=validate.OneOf(["text", "json"]),
)

# Database

SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 5,
    "init_command": (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA recursive_triggers=ON;"
        # A batch of 1000 changes 8 MB of pages: with SQLite's 2 MB it writes and reads many of them
        # twice. Most are changed by the next batches too, so they are copied from the log to the
        # file once for several batches.
        " PRAGMA cache_size=-16000; PRAGMA wal_autocheckpoint=16000"
    ),
}
POSTGRESQL = {
    "options": "-c lock_timeout=2000 -c statement_timeout=5000",
    # A database host that vanishes without a word is noticed within ten seconds, the client's
    # patience; the system's own limit is two hours, until when every thread would wait for it.
    "connect_timeout": 3,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def database(url: str) -> dict[str, Any]:
    """Parses the address of a database, whose own options for PostgreSQL win over those above."""
    try:
        config: dict[str, Any] = {**dj_database_url.parse(url)}
    except ValueError as error:
        raise ValidationError("This is not the address of a database.") from error
    options = config.pop("OPTIONS", {})
    config |= {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}
    match config["ENGINE"], config["NAME"]:
        case "django.db.backends.sqlite3", str(name) if name != ":memory:" and not options:
            engine = "usage.database.sqlite"
            return config | {"ENGINE": engine, "NAME": BASE_DIR / name, "OPTIONS": SQLITE}
        case "django.db.backends.postgresql", str(name) if name:
            if config["HOST"].startswith("/"):
                # The folder of a socket in its own case, which urlsplit().hostname does not keep.
                host, _, _ = urlsplit(url).netloc.rpartition("@")[2].partition(":")
                config["HOST"] = unquote(host)
            options["options"] = f"{POSTGRESQL['options']} {options.get('options', '')}".strip()
            engine = "usage.database.postgresql"
            try:  # the role is Django's own option
                make_dsn(**{name: options[name] for name in options if name != "assume_role"})
            except ProgrammingError as error:
                raise ValidationError("It has an option that PostgreSQL does not know.") from error
            return config | {"ENGINE": engine, "OPTIONS": POSTGRESQL | options}
    raise ValidationError("This is not the address of an SQLite file or a PostgreSQL database.")


env.add_parser("database", database)

DATABASES = {
    "default": setting(
        env.database,
        "DATABASE_URL",
        f"sqlite:///{BASE_DIR / 'db.sqlite3'}",
        expected="sqlite:///file or postgres://user:password@host:port/name, percent-encoded",
        secret=True,
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# The parts of the service

ROOT_URLCONF = "billing_project.urls"
WSGI_APPLICATION = "billing_project.wsgi.application"

INSTALLED_APPS = [
    "usage",  # first, so that its templates are found before those they extend
    "billing_project.admin.BillingAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
MIDDLEWARE = [
    *(["billing_project.observe.observe"] if METRICS_ADDRESS or ACCESS_LOG else []),
    "billing_project.middleware.name_request",
    "billing_project.middleware.content_security_policy",
    "billing_project.middleware.probes",
    "billing_project.middleware.api_problems",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.common.CommonMiddleware",
    "billing_project.middleware.endpoint",  # what follows is for pages
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "usage.admin.unavailable.PageLimits",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "billing_project.middleware.log_staff",
    "axes.middleware.AxesMiddleware",  # last: it turns a refused login into its answer
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
# By name and address together: all staff may share one address, and no one elsewhere can lock
# a colleague out.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "billing_project.proxies.client_address"
# gunicorn's own variables, which gunicorn.conf.py takes from here: how many processes serve, and
# the proxies whose word about a request counts.
WEB_CONCURRENCY = setting(
    env.int,
    "WEB_CONCURRENCY",
    1,
    expected="a whole number of worker processes, 1 or more",
    validate=validate.Range(min=1),
)
FORWARDED_ALLOW_IPS = setting(
    env.list,
    "FORWARDED_ALLOW_IPS",
    [ip_network("127.0.0.1"), ip_network("::1")],
    expected="addresses or networks separated by commas, such as 10.0.0.0/8, or *",
    subcast=proxies,
)
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = dt.timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True  # the history has the acts of whoever logged in
AXES_VERBOSE = False
AXES_LOCKOUT_TEMPLATE = "usage/admin/locked.html"
AXES_ENABLE_ADMIN = False  # two of its three lists would always be empty: usage/admin/accounts.py
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in [
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    ]
]
FIXTURE_DIRS = [BASE_DIR / "fixtures"]

# The API: a view without settings of its own lets no one in.

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Usage billing",
    "DESCRIPTION": "Records what each customer used on the customer's current bill, exactly once.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "OAS_VERSION": "3.1.0",
    "POSTPROCESSING_HOOKS": ["usage.api.openapi.complete"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# Time, language and the files of the pages

USE_TZ = True
TIME_ZONE = BILLING_TIME_ZONE
LANGUAGE_CODE = "en"

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    }
}
# By themselves these follow the DEBUG that tests turn off, and would want collected files there.
WHITENOISE_AUTOREFRESH = WHITENOISE_USE_FINDERS = DEBUG
WHITENOISE_ALLOW_ALL_ORIGINS = False

# Logging

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "class": "logging.Formatter" if DEBUG else "billing_project.log.OneLineFormatter",
            "format": "{asctime} {levelname} {name} {request_id} {message}",
            "style": "{",
        },
        "json": {"class": "billing_project.log.JSONFormatter"},
    },
    "filters": {
        "outage": {"()": "billing_project.log.OutageFilter"},
        "refusal": {"()": "billing_project.log.RefusalFilter"},
        "request_id": {"()": "billing_project.log.RequestIdFilter"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json" if LOG_FORMAT == "json" else "line",
            "filters": ["outage", "refusal", "request_id"],
        }
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # Django's own handlers write only with DEBUG, or by mail.
    "loggers": {"django": {"handlers": [], "level": "INFO"}},
}
