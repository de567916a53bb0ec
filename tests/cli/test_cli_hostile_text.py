"""Text of others on a terminal and in a log: what it says stays where it is."""

import logging

import pytest

from proxyless.cli import output
from proxyless.cli.logs import OneLine

EVIL = "node\n2026-01-01 ERROR forged\x1b[2J\x9b31m\u202e"


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.line(EVIL)
    output.table(("NODE",), [(EVIL,)])
    output.as_json({EVIL: EVIL})
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert shown.err.count("\n") == 1
    assert "\\u009b" in shown.out


def test_a_message_may_have_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.message("one\ntwo\x1b")
    assert capsys.readouterr().err == "one\ntwo \n"


def test_a_log_line_is_one_line_and_a_trace_stays() -> None:
    try:
        raise ValueError("cause")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "refused %s", (EVIL,), info)
    first, *trace = OneLine("%(levelname)s: %(message)s").format(record).split("\n")
    assert first == "ERROR: refused node\\n2026-01-01 ERROR forged\\x1b[2J\\x9b31m\\u202e"
    assert trace[-1] == "ValueError: cause"
