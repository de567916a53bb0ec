"""The file that a process starts from while the control plane is away: what is believed, and what is not."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyless.xds_client.kinds import Kind
from proxyless.xds_client.last_known_good import MAX_AGE, LastKnownGood, LastKnownGoodFile

DATA = LastKnownGood(
    {Kind.LISTENER: {"a:80": b"\x00\xff"}, Kind.CLUSTER: {"c": b"x"}, Kind.ROUTE: {}, Kind.ENDPOINT: {}},
    trust_domain="td",
    roots_pem=b"-----BEGIN CERTIFICATE-----",
    node_id="sidecar~1~a.b~c",
)
NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def file(
    directory: Path, clock: Clock | None = None, service: str = "web", max_size: int = 1 << 20
) -> LastKnownGoodFile:
    return LastKnownGoodFile(
        directory,
        namespace="shop",
        service=service,
        service_account="web",
        max_size=max_size,
        clock=clock or Clock(),
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert file(tmp_path).load() is None
    assert file(tmp_path).save(DATA)
    found = file(tmp_path).load()
    assert found is not None
    assert found.resources == DATA.resources
    assert (found.trust_domain, found.roots_pem, found.node_id, found.written_at) == (
        "td",
        DATA.roots_pem,
        DATA.node_id,
        NOW,
    )


def test_files_are_private_and_no_temporary_ones_stay(tmp_path: Path) -> None:
    made = file(tmp_path)
    made.save(DATA)
    made.save(DATA)
    names = sorted(path.name for path in made.path.parent.iterdir())
    assert names == sorted(["last-known-good.key", made.path.name])
    for path in made.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700


def test_every_identity_has_its_own_file(tmp_path: Path) -> None:
    assert file(tmp_path).path != file(tmp_path, service="other").path
    assert file(tmp_path, service="a/b").path != file(tmp_path, service="a-b").path
    assert file(tmp_path, service="../../x").path.parent == file(tmp_path).path.parent


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def other_key(path: Path) -> None:
    (path.parent / "last-known-good.key").write_bytes(b"k" * 32)


def no_key(path: Path) -> None:
    (path.parent / "last-known-good.key").unlink()


def short_key(path: Path) -> None:
    (path.parent / "last-known-good.key").write_bytes(b"k")


def old_format(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"good/1", b"good/0"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


def key_open_to_others(path: Path) -> None:
    (path.parent / "last-known-good.key").chmod(0o640)


def oversize(path: Path) -> None:
    with path.open("ab") as stream:
        stream.truncate(2 << 20)


def link(path: Path) -> None:
    real = path.with_suffix(".real")
    path.rename(real)
    path.symlink_to(real)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tamper, "seal does not fit"),
        (other_key, "seal does not fit"),
        (no_key, None),
        (short_key, "seal does not fit"),
        (old_format, "another format"),
        (truncate, "seal does not fit"),
        (open_to_others, "open to other users (mode 644"),
        (key_open_to_others, "open to other users (mode 640"),
        (oversize, "at most"),
        (link, "symbolic link"),
        (pipe, "not a regular file"),
    ],
)
def test_a_spoiled_file_is_not_believed_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str | None
) -> None:
    made = file(tmp_path)
    made.save(DATA)
    spoil(made.path)
    with caplog.at_level(logging.WARNING, "proxyless.xds"):
        assert made.load() is None
    if reason is not None:
        assert reason in caplog.text
    made.path.unlink(missing_ok=True)
    (made.path.parent / "last-known-good.key").unlink(missing_ok=True)
    assert made.save(DATA)
    assert made.load() is not None


def test_another_identitys_file_does_not_pass_for_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = file(tmp_path, service="bank"), file(tmp_path)
    theirs.save(DATA)
    theirs.path.rename(ours.path)
    assert ours.load() is None
    assert "written for another identity" in caplog.text


@pytest.mark.parametrize(
    ("age", "believed"), [(0, True), (MAX_AGE - 1, True), (MAX_AGE + 1, False), (-60, True), (-3600, False)]
)
def test_age(tmp_path: Path, age: float, believed: bool) -> None:
    clock = Clock()
    made = file(tmp_path, clock)
    made.save(DATA)
    clock.now += age
    assert (made.load() is not None) is believed


def test_what_cannot_be_saved_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not file(tmp_path, max_size=64).save(DATA)
    assert "at most 64" in caplog.text
    (tmp_path / "taken").write_text("a file")
    assert not file(tmp_path / "taken").save(DATA)
