"""How log lines look on a terminal or in a file: one line each, whatever a peer put into its names."""

import logging


class OneLine(logging.Formatter):
    """Escapes control characters in messages: a line break or an escape sequence could forge lines. Traces stay."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in record.message
        )
        return super().formatMessage(record)
