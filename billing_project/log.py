"""How log records are written, each with the X-Request-ID of its request."""

import datetime as dt
import json
import logging
import time
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Gives each log record the X-Request-ID of the request it belongs to, or a dash."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds the attribute; lets every record through."""
        record.request_id = request_id.get()
        return True


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
        return json.dumps(fields, default=str)


# The attributes of every record; what else it has was given as `extra`.
_OWN_FIELDS = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class OneLineFormatter(logging.Formatter):
    """Writes a record as one line, its time in UTC; no part of it can pass for another."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The record, with each line break and other control character inside it escaped."""
        return "".join(
            character if character.isprintable() else ascii(character)[1:-1]
            for character in super().format(record)
        )
