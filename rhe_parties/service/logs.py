"""The log of a server, on standard error: what happened to whom; never images, features, classes, logits or keys."""

from __future__ import annotations

import datetime
import json
import logging
import sys

__all__ = ["LOGGER", "start_log"]

LOGGER = "rhe.service"
_STANDARD = frozenset(vars(logging.makeLogRecord({})))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record), default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        head = f"{facts.pop('time')} {facts.pop('level'):<7} {facts.pop('event')}"
        return " ".join([head, *(f"{name}={_quoted(value)}" for name, value in facts.items())])


def _facts(record: logging.LogRecord) -> dict[str, object]:
    time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
    # Libraries put attributes of their own on every record, with an underscore in front.
    given = {n: value for n, value in vars(record).items() if n not in _STANDARD and n != "message" and n[0] != "_"}
    facts = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **given}
    if record.exc_info:
        facts["error"] = logging.Formatter().formatException(record.exc_info).splitlines()[-1]
    return facts


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and " " not in text and text.isprintable() else json.dumps(text)


def start_log(style: str) -> logging.Logger:
    """Have the servers' events written to standard error as `json`, one object a line, or `text`."""
    log = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log
