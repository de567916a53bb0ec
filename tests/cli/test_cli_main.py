"""The command itself: help, usage, finding a control plane, and endings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyless.cli import main as entry
from proxyless.cli.main import COMMANDS

Cli = Callable[..., Any]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run: Cli, command: str) -> None:
    result = run(command, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"proxyless {command}" in result.out.partition("example:")[2]


def test_help_names_every_command_and_imports_none(run: Cli) -> None:
    result = run("--help")
    assert result.status == 0
    assert all(command in result.out for command in COMMANDS)
    code = """
import sys
from proxyless.cli.main import main
try:
    main(["--help"])
except SystemExit:
    print(sorted(n for n in sys.modules if n.startswith("proxyless.cli.") or n in ("grpc", "pydantic", "httpx2")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "['proxyless.cli.main', 'proxyless.cli.streams']"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["get"],
        ["apply"],
        ["apply", "-f", "x", "--timeout", "soon"],
        ["token", "--service-account", "reviews"],
        ["token", "--service-account", "a/b", "--ttl", "0s"],
        ["control-plane", "--xds-address", "nowhere"],
        ["control-plane", "--http-address", "127.0.0.1:99999"],
        ["proxy-config", "node", "carrots"],
    ],
)
def test_wrong_usage_is_status_2(run: Cli, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"http": "127.0.0.1:1", "pid": 2**22 + 1})])
def test_without_a_control_plane_it_says_how_to_get_one(
    run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("PROXYLESS_STATE_DIR", str(tmp_path))
    (tmp_path / "admin-token").write_text("x" * 30)
    if content is not None:
        (tmp_path / "control-plane.json").write_text(content)
    result = run("proxy-status")
    assert (result.status, result.out, len(result.err.splitlines())) == (1, "", 1)
    assert "start one with `proxyless control-plane`" in result.err


def test_a_control_plane_that_does_not_answer(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYLESS_STATE_DIR", str(tmp_path))
    (tmp_path / "admin-token").write_text("x" * 30)
    (tmp_path / "control-plane.json").write_text(json.dumps({"http": "127.0.0.1:1", "pid": os.getpid()}))
    result = run("proxy-status")
    assert (result.status, len(result.err.splitlines())) == (1, 1)
    assert "no control plane runs" in result.err


def test_a_wrong_admin_token_says_so(
    run: Cli, control_plane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYLESS_STATE_DIR", str(tmp_path))
    (tmp_path / "admin-token").write_text("x" * 30)
    (tmp_path / "control-plane.json").write_text((control_plane.state_dir / "control-plane.json").read_text())
    result = run("proxy-status")
    assert (result.status, "admin token" in result.err) == (1, True)


def test_an_explanation_from_files_says_that_it_is(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}"
    )
    explain = ("explain", "GET", "http://a/", "--config", str(tmp_path))
    assert "from the files (snapshot 1)" in run(*explain).out
    assert '"config": "files"' in run(*explain, "-o", "json").out


@pytest.mark.parametrize(
    "arguments",
    [["control-plane"], ["analyze", "a.yaml"], ["explain", "GET", "http://reviews/", "--config", "a.yaml"]],
    ids=lambda arguments: arguments[0],
)
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.yaml").write_text("kind: List\n")
    code = f"""
import sys
for name in ("pydantic", "yaml", "starlette", "watchfiles", "grpc"):
    sys.modules[name] = None  # importing it fails as if it were not installed
from proxyless.cli.main import main
sys.exit(main({arguments!r}))
"""
    environment = {**os.environ, "PROXYLESS_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "pip install 'proxyless[control-plane]'" in done.stderr


def test_ctrl_c_is_130_and_quiet(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", interrupted)
    result = run("proxy-status")
    assert (result.status, result.err) == (130, "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.yaml").write_text(f"kind: [ # {number}\n")
    command = f"{sys.executable} -m proxyless analyze {tmp_path} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
