"""How log records are written."""

import logging
import time


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
