"""Adds, sets and removes headers. Source: Envoy's HeaderValueOption and its HeaderParser."""

from collections.abc import Iterable

from proxyless.model.route import HeaderAction, HeaderMutations

Headers = list[tuple[str, str]]


def _protected(name: str) -> bool:
    # Envoy refuses such mutations in its configuration; a second Host line would let two servers disagree.
    return name == "host" or name.startswith(":")


def apply(mutations: HeaderMutations, headers: Headers) -> Headers:
    """A new list with the removals, then the sets in order. ``host`` and pseudo-headers are never touched."""
    removes = mutations.removes
    changed = [line for line in headers if line[0] not in removes or _protected(line[0])]
    for change in mutations.sets:
        name, value = change.name, change.value
        if _protected(name):
            continue
        action = change.action
        if action is HeaderAction.APPEND:
            changed.append((name, value))
            continue
        present = any(line[0] == name for line in changed)
        if action is HeaderAction.ADD_IF_ABSENT:
            if not present:
                changed.append((name, value))
        elif action is HeaderAction.OVERWRITE or present:
            changed = [line for line in changed if line[0] != name]
            changed.append((name, value))
    return changed


def apply_all(levels: Iterable[HeaderMutations], headers: Headers) -> Headers:
    """Applies several levels. Envoy's order is the most specific first, so that the least specific wins."""
    for mutations in levels:
        if mutations:
            headers = apply(mutations, headers)
    return headers
