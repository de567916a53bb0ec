"""The pure core of the configuration: what a sequence of file contents means, step by step."""

from collections.abc import Mapping

import pytest

from proxyless.control_plane.configuration.files import Files, advance, read_file, unreadable_file
from proxyless.control_plane.resources.problem import Level

A, B, BAD_A, BROKEN = "a@80", "b@80", "a@0", "x: ["
UNREADABLE = "unreadable"


def text_of(content: str) -> str:
    """``a@80 b@81`` is Services a and b with those ports; port 0 is refused by validation."""
    documents = []
    for item in content.split():
        if "@" in item:
            name, port = item.split("@")
            documents.append(
                f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}"
            )
        else:
            documents.append("x: [")
    return "\n---\n".join(documents)


def step(previous: Files, contents: Mapping[str, str], now: float) -> Files:
    files = {
        name: unreadable_file(name, "no") if content == UNREADABLE else read_file(text_of(content), name)
        for name, content in contents.items()
    }
    return advance(previous, files, now, patience=1)


def served(state: Files) -> str:
    found = sorted((key.name, resource.spec.ports[0].port) for key, resource in state.served.items())
    return " ".join(f"{name}@{port}" for name, port in found)


Step = tuple[dict[str, str], str, set[str]]

CASES: dict[str, list[Step]] = {
    "a file appears, changes and goes": [
        ({}, "", set()),
        ({"1": "a@80"}, "a@80", set()),
        ({"1": "a@81"}, "a@81", set()),
        ({}, "a@81", set()),  # not yet believed
        ({}, "a@81", set()),
        ({}, "", set()),
    ],
    "a resource leaves its file": [
        ({"1": "a@80 b@80"}, "a@80 b@80", set()),
        ({"1": "b@80"}, "a@80 b@80", set()),
        ({"1": "b@80"}, "a@80 b@80", set()),
        ({"1": "b@80"}, "b@80", set()),
    ],
    "it moves: taken out first": [
        ({"1": "a@80 b@80"}, "a@80 b@80", set()),
        ({"1": "b@80"}, "a@80 b@80", set()),
        ({"1": "b@80", "2": "a@81"}, "a@81 b@80", set()),
        ({"1": "b@80", "2": "a@81"}, "a@81 b@80", set()),
    ],
    "it moves: put in first": [
        ({"2": "a@80"}, "a@80", set()),
        ({"1": "a@81", "2": "a@80"}, "a@80", {"DuplicateResource"}),
        ({"1": "a@81"}, "a@81", set()),
    ],
    "it moves: all at once": [({"1": "a@80"}, "a@80", set()), ({"2": "a@80"}, "a@80", set())],
    "a key in two files at the start": [({"1": "a@80", "2": "a@81"}, "a@80", {"DuplicateResource"})],
    "a key in two files, the first one faulty": [
        ({"1": "a@0", "2": "a@81"}, "a@81", {"SchemaValidationError", "DuplicateResource"}),
    ],
    "one faulty document keeps its last good version and blocks no other": [
        ({"1": "a@80 b@80"}, "a@80 b@80", set()),
        ({"1": "a@0 b@81"}, "a@80 b@81", {"SchemaValidationError", "LastGoodServing"}),
        ({"1": "a@82 b@81"}, "a@82 b@81", set()),
    ],
    "a faulty document without a good version before": [
        ({"1": "a@0 b@80"}, "b@80", {"SchemaValidationError"}),
    ],
    "faulty, then gone": [
        ({"1": "a@80"}, "a@80", set()),
        ({"1": "a@0"}, "a@80", {"SchemaValidationError", "LastGoodServing"}),
        ({"1": ""}, "a@80", set()),
        ({"1": ""}, "a@80", set()),
        ({"1": ""}, "", set()),
    ],
    "a file that is no YAML any more keeps all it had": [
        ({"1": "a@80 b@80", "2": "c@80"}, "a@80 b@80 c@80", set()),
        ({"1": BROKEN, "2": "c@81"}, "a@80 b@80 c@81", {"InvalidYaml", "LastGoodServing"}),
        ({"1": BROKEN, "2": "c@81"}, "a@80 b@80 c@81", {"InvalidYaml", "LastGoodServing"}),
        ({"1": BROKEN, "2": "c@81"}, "a@80 b@80 c@81", {"InvalidYaml", "LastGoodServing"}),
        ({"1": "b@81", "2": "c@81"}, "a@80 b@81 c@81", set()),
    ],
    "what can be read of such a file is in effect": [
        ({"1": "a@80 b@80"}, "a@80 b@80", set()),
        ({"1": f"a@81 {BROKEN.split(maxsplit=1)[0]}"}, "a@81 b@80", {"InvalidYaml", "LastGoodServing"}),
    ],
    "a file that cannot be read keeps all it had": [
        ({"1": "a@80"}, "a@80", set()),
        ({"1": UNREADABLE}, "a@80", {"FileUnreadable", "LastGoodServing"}),
        ({"1": "a@81"}, "a@81", set()),
    ],
    "a resource moves while its file is broken": [
        ({"1": "a@80"}, "a@80", set()),
        ({"1": BROKEN}, "a@80", {"InvalidYaml", "LastGoodServing"}),
        ({"1": BROKEN, "2": "a@81"}, "a@81", {"InvalidYaml"}),
    ],
    "a broken file is removed": [
        ({"1": "a@80"}, "a@80", set()),
        ({"1": BROKEN}, "a@80", {"InvalidYaml", "LastGoodServing"}),
        ({}, "a@80", set()),
        ({}, "a@80", set()),
        ({}, "", set()),
    ],
    "twice in one file": [({"1": "a@80 a@81"}, "a@80", {"DuplicateResource"})],
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES.keys())
def test_files_over_time(steps: list[Step]) -> None:
    state = Files()
    for number, (contents, expected, codes) in enumerate(steps):
        state = step(state, contents, now=100 + number * 0.6)
        assert served(state) == expected, number
        assert {problem.code for problem in state.problems} == codes, number
        assert all(problem.file for problem in state.problems)


def test_a_key_in_two_files_names_both() -> None:
    state = step(Files(), {"one.yaml": "a@80", "two.yaml": "a@81"}, 0)
    (problem,) = state.problems
    assert problem.level is Level.ERROR
    assert problem.file == "two.yaml"
    assert "one.yaml" in problem.message
    assert problem.line == 1
