"""How log records are written, each with the X-Request-ID of its request."""

import datetime as dt
import json
import logging
import re
import threading
import time
from contextvars import ContextVar

from usage.database.transactions import is_unavailable

logger = logging.getLogger(__name__)
_MINUTE = 60.0

# An API key that a caller put where logs show it: into the path, or as X-Request-ID.
_API_KEY = re.compile(r"(ub_[0-9a-f]{8})_[0-9a-f]{64,}")

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Gives each log record the X-Request-ID of the request it belongs to, or a dash."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds the attribute; lets every record through."""
        record.request_id = request_id.get()
        return True


class RefusalFilter(logging.Filter):
    """Leaves the traceback out where a caller is to blame, as with a Host that is none of ours.

    Django gives one with many refusals, as errors even, so anybody could fill the log with them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops the traceback of an answer below 500; lets every record through."""
        if getattr(record, "status_code", 500) < 500:
            record.exc_info = None
        return True


class OutageFilter(logging.Filter):
    """Lets through one traceback per cause and minute of a database that is away, then a count."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # Until when each cause was told, by the monotonic clock, and how often it came since.
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops repeated causes, and Django's second line about each 503."""
        now = time.monotonic()
        with self._lock:
            over = {cause: again for cause, (until, again) in self._told.items() if until <= now}
            for cause in over:
                del self._told[cause]
        for cause, again in over.items():  # without the lock, since this comes back here
            if again:
                logger.warning("The database was unavailable %d more times: %s", again, cause)
        if getattr(record, "status_code", None) == 503 and not record.exc_info:
            return False
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not is_unavailable(error):
            return True
        # The first line of the error that the others come from.
        while error.__cause__ is not None:
            error = error.__cause__
        line, _, _ = str(error).partition("\n")
        cause = f"{type(error).__name__}: {line}"
        with self._lock:
            until, again = self._told.get(cause, (now + _MINUTE, -1))
            self._told[cause] = until, again + 1
        return again < 0


class JSONFormatter(logging.Formatter):
    """Writes a record as one line of JSON, with the fields given as `extra`, its time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with its traceback in a field of its own."""
        time_ = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = {
            "time": time_.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _without_keys(json.dumps(fields, default=str))


# The attributes of every record; what else it has was given as `extra`. Django gives the request,
# whose text has the query, in which callers may put a secret.
_OWN_FIELDS = {*vars(logging.makeLogRecord({})), "message", "asctime", "request"}


class OneLineFormatter(logging.Formatter):
    """Writes a record as one line, its time in UTC; no part of it can pass for another."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The record, with each line break and other control character inside it escaped."""
        return "".join(
            character if character.isprintable() else ascii(character)[1:-1]
            for character in _without_keys(super().format(record))
        )


def hide_keys(record: logging.LogRecord) -> bool:
    """Filters records that others format, such as gunicorn's of a line that is not a header."""
    record.msg, record.args = _without_keys(record.getMessage()), None
    return True


def _without_keys(text: str) -> str:
    return _API_KEY.sub(r"\1...", text)
