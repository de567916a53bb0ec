"""What people mistype: one message that names it and the remedy, on the right stream, with the right status."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hello_service import HELLO, Serving, proxyless
from running_control_plane import until

Cli = Callable[..., Any]


def serve(folder: Path, application: str) -> subprocess.CompletedProcess[str]:
    """Serve something that cannot be served; no control plane is needed for that."""
    command = proxyless("serve", application, "--service", "x", "--state-dir", str(folder / "state"))
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["request", "GET", "hello/foo"], "'hello/foo' is not a URL of the form http://HOST[:PORT]/PATH"),
        (["request", "GET", "ftp://hello/"], "is not a URL"),
        (["request", "GET", "http://hello:99999/"], "Port out of range"),
        (["request", "GET", "http://hello/", "-H", "end-user"], "-H 'end-user: jason'"),
        (["request", "GET", "http://hello/", "--label", "v1"], "--label version=v1"),
        (["explain", "GET", "hello"], "is not a URL"),
        (["request", "GET", "http://[::1/"], "'http://[::1/': Invalid IPv6 URL"),
        (["explain", "GET", "http://[::1/"], "'http://[::1/': Invalid IPv6 URL"),
        *(
            ([*command, "-n", name], f"{name!r} is not a namespace: lower case letters, digits and '-'")
            for command in (["apply", "-f", "x.yaml"], ["get", "vs"], ["delete", "vs", "x"], ["wait", "vs/x"])
            for name in ("", "UP", "a/b", "a-")
        ),
        (["explain", "GET", "http://hello/", "--from", "a/b/c"], "--from default/productpage"),
        (["serve", "hello:app"], "--service"),
        (["serve", "hello:app", "--service", "x", "--state-dir", ""], "--state-dir: it is empty: name a directory"),
        (["control-plane", "--state-dir", ""], "--state-dir: it is empty: name a directory"),
        (["serve", "hello:app", "--service", "x", "--port", "http"], "--port http=8080"),
        (["serve", "hello:app", "--service", "x", "--metrics-port", "99999"], "not a port from 0 to 65535"),
        (["serve", "hello:app", "--service", "x", "--metrics-port", "00000080"], "not a port from 0 to 65535"),
        (["serve", "hello:app", "--service", "x", "--port", f"http={'9' * 5000}"], "--port http=8080"),
        (["envoy", "sidecar", "--app-port", "8080"], "--service"),
        (["envoy", "sidecar", "--service", "x", "--app-port", "0000009999999"], "not a port from 0 to 65535"),
        (["get", "vs", "a", "b"], "usage: proxyless get"),
        (["wait", "reviews"], "'reviews' is not KIND/NAME, e.g. vs/reviews"),
        (["wait", "vs/reviews", "--timeout", "soon"], "not a duration"),
        (["wait", "vs/reviews", "--timeout", "11m"], "it waits 10m at most"),
        (["apply", "-f", "x.yaml", "--wait", "--timeout", "11m"], "it waits 10m at most"),
        (["analyze", "/no/such/path"], "/no/such/path does not exist"),
    ],
)
def test_wrong_usage_names_it_before_anything_is_contacted(run: Cli, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert says in result.err


def test_version(run: Cli) -> None:
    assert re.fullmatch(r"proxyless \d+\.\d+\.\d+\n", run("--version").out)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def (", "SyntaxError"),
        ("def broken():\n    return 1 / 0\nbroken()", "line 2, in broken"),
    ],
)
def test_an_application_that_fails_is_shown_with_its_own_trace_only(tmp_path: Path, source: str, shown: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    result = serve(tmp_path, "broken:app")
    assert (result.returncode, result.stdout) == (1, "")
    assert shown in result.stderr
    assert "importlib" not in result.stderr
    assert "proxyless/cli" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("proxyless: broken:app cannot be imported: ")


def test_a_file_name_is_no_module_name(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    result = serve(tmp_path, "hello.py:app")
    assert (result.returncode, result.stdout) == (1, "")
    assert "write hello:app" in result.stderr


def test_an_empty_list_is_empty_in_each_format(cli: Cli) -> None:
    assert cli("get", "se", "-o", "yaml").out == ""
    assert cli("get", "se").out == ""


def test_every_faulty_file_is_reported_at_once(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("kind: [\n")
    result = cli("apply", "-f", str(tmp_path))
    assert result.status == 1
    assert all(f"{tmp_path / name}.yaml:" in result.err for name in ("a", "b"))


def test_a_warning_about_what_was_applied_names_its_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dangling}\n"
        "spec:\n  host: nobody.there\n"
    )
    result = cli("apply", "-f", str(path))
    assert (result.status, result.out) == (0, "destinationrule/dangling created\n")
    assert f"{path}:5: Warning: DestinationRule default/dangling: spec.host: no service has the host" in result.err
    assert cli("delete", "dr", "dangling").status == 0


def test_a_misspelled_kind_of_the_mesh_is_a_warning(run: Cli, tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("apiVersion: networking.istio.io/v1\nkind: VirtualServic\nmetadata: {name: a}\nspec: {}\n")
    result = run("analyze", str(path))
    assert "Warning: VirtualServic a: kind VirtualServic" in result.out
    assert "did you mean VirtualService?" in result.out


def test_an_application_that_ends_the_process_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text("import sys\nsys.exit(3)\n")
    result = serve(tmp_path, "ending:app")
    assert result.returncode == 1
    assert "ending:app cannot be imported: it ends the process with status 3" in result.stderr


def test_a_tab_is_called_a_tab(run: Cli, tmp_path: Path) -> None:
    path = tmp_path / "tab.yaml"
    path.write_text("kind: Service\nspec:\n\tports: []\n")
    assert "with spaces, not with tabs" in run("analyze", str(path)).out


def test_a_host_outside_the_mesh_is_called_so(cli: Cli, serving: Serving) -> None:
    result = cli("request", "GET", "https://no-such-host.invalid/")
    assert (result.status, result.out) == (1, "")
    assert "ConnectError" in result.err
    assert "the mesh knows no no-such-host.invalid:443" in result.err
    assert "called with http://" in result.err


def test_a_header_is_sent_as_utf_8(cli: Cli, serving: Serving) -> None:
    result = cli("request", "GET", "http://hello/", "-H", "x: grüß")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "grüß"


def test_a_name_to_listen_on_is_registered_as_its_address(cli: Cli, serving: Serving) -> None:
    found = json.loads(cli("get", "workloads", "-o", "json").out)["items"]
    assert [one["spec"]["address"] for one in found] == ["127.0.0.1"]


def test_explain_says_afterwards_how_long_each_phase_took(cli: Cli, serving: Serving) -> None:
    result = cli("request", "GET", "http://hello/", "--explain")
    last = result.err.splitlines()[-1]
    assert re.match(r"time: policy [0-9.]+ ms, queue [0-9.]+ ms, connect [0-9.]+ ms, tls [0-9.]+ ms, send ", last)
    several = cli("request", "GET", "http://hello/", "--explain", "--repeat", "3").err
    assert several.splitlines()[-1].startswith("time (medians): policy ")


def test_ctrl_c_shows_what_was_done_so_far(serving: Serving) -> None:
    many = subprocess.Popen(
        proxyless("request", "GET", "http://hello/", "--repeat", "100000000", "--explain"),
        env=serving.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert many.stderr is not None
        while not many.stderr.readline().startswith("  retries:"):  # the last line of --explain
            assert many.poll() is None
        count = f"/proc/{many.pid}/io"
        before = Path(count).read_text()
        until("requests under way", lambda: Path(count).read_text() != before)
        many.send_signal(signal.SIGINT)
        out, err = many.communicate(timeout=30)
    finally:
        many.kill()
    assert "Traceback" not in err
    assert many.returncode == 130
    if out:  # else the signal came before the first answer
        assert out.split()[:3] == ["VALUE", "REQUESTS", "SHARE"]
        assert "requests, 0 retries" in err


def test_a_client_is_found_by_a_part_of_its_name(cli: Cli, serving: Serving) -> None:
    found = cli("proxy-config", f"hello-vm-{serving.process.pid}", "listeners")
    assert (found.status, found.err) == (0, "")
    assert "xds.istio.io/grpc/lds/inbound/" in found.out
    assert "proxy-status" in cli("proxy-config", "nobody").err


def test_without_any_token_it_says_which_there_could_be(run: Cli, control_plane: Any, tmp_path: Path) -> None:
    elsewhere = control_plane.at["xds_tls"]
    shared = ["request", "GET", "http://hello/", "--control-plane", elsewhere, "--state-dir", str(tmp_path)]
    for arguments, says in (
        (shared, "start the control plane with --dev"),
        ([*shared, "--token-file", str(tmp_path / "none")], "proxyless token --service-account"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("proxyless.cli.request.READY_TIMEOUT", 1.0)
            result = run(*arguments)
        assert (result.status, result.out) == (1, "")
        assert says in result.err
        assert len(result.err.splitlines()) <= 2
