"""Field paths as people write them: ``spec.http[0].match[1].headers.end-user``, ``labels["app.example/name"]``."""

import json
import re

_PLAIN = re.compile(r"[A-Za-z0-9_-]+\Z")


def child(path: str, step: str | int) -> str:
    """The path of a list element (``int``) or of a field or map entry (``str``)."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    if not _PLAIN.match(step):
        return f"{path}[{json.dumps(step, ensure_ascii=False)}]"
    return f"{path}.{step}" if path else step
