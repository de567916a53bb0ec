"""Printing: data to stdout, words to stderr."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# What JSON leaves as it is and a terminal obeys: DEL, C1 controls, marks that turn text around.
_UNSEEN = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def data(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def data_now(text: str) -> None:
    """Of what goes on: whoever reads a pipe gets it now, not with the end."""
    data(text)
    sys.stdout.flush()


def message(text: str) -> None:
    sys.stderr.write("\n".join(map(_plain, text.split("\n"))) + "\n")


def line(text: str) -> None:
    """A message that holds text of others: it stays on its line."""
    message(_plain(text))


def as_json(value: Any) -> None:
    data(_UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, indent=2, ensure_ascii=False)))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, three spaces apart, as kubectl prints them."""
    # Text from clients and files is shown here: control characters must not reach the terminal.
    lines = [list(header), *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        data("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def problems(found: Iterable[dict[str, Any]]) -> None:
    """Each problem as ``file:line: Level: Kind ns/name: text [code]``, on stderr."""
    for problem in found:
        message(problem_line(problem))


def problem_line(problem: dict[str, Any]) -> str:
    where = problem.get("file", "")
    if where and problem.get("line"):
        where += f":{problem['line']}"
    name = "/".join(part for part in (problem.get("namespace"), problem.get("name")) if part)
    what = f"{problem.get('kind')} {name}: " if name else ""
    start = f"{where}: " if where else ""
    return _plain(f"{start}{problem.get('level')}: {what}{problem.get('message')} [{problem.get('code')}]")


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
