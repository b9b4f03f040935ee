"""Downloads from a server on the loopback: cut, continued, damaged, refused."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from tests.loopback_files import Files, served
from tlkit.backbones import download as module
from tlkit.backbones.download import NotDownloaded, download, mirrored

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CUT = 100_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "net.bin"


def url(server: Files) -> str:
    return f"{server.address}/net.bin"


def left(target: Path) -> list[str]:
    return sorted(one.name for one in target.parent.iterdir())


def test_a_cut_connection_is_continued_where_it_was_cut(target: Path) -> None:
    with served({"net.bin": DATA}, cuts=[CUT, CUT]) as server:
        assert download(url(server), target, SHA256) == target
    assert server.asked == ["GET /net.bin", "GET /net.bin bytes=100000-", "GET /net.bin bytes=200000-"]
    assert target.read_bytes() == DATA and left(target) == ["net.bin"]


def test_what_was_received_is_kept_for_the_next_call(
    target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "TRIES", 1)
    with served({"net.bin": DATA}, cuts=[CUT]) as server:
        with pytest.raises(NotDownloaded, match=r"the connection was cut; 0\.1 MB are kept in '.*net\.bin\.part'"):
            download(url(server), target, SHA256[:8])
        assert left(target) == ["net.bin.part"]
        with caplog.at_level(logging.INFO, "tlkit"):
            download(url(server), target, SHA256[:8])
    assert server.asked[1:] == ["GET /net.bin bytes=100000-"] and target.read_bytes() == DATA
    assert caplog.messages == [f"download  net.bin from {server.address}/net.bin, continued"]


def test_a_server_without_ranges_sends_the_file_again(target: Path) -> None:
    with served({"net.bin": DATA}, cuts=[CUT], ranges=False) as server:
        download(url(server), target, SHA256)
    assert target.read_bytes() == DATA and len(server.asked) == 2


@pytest.mark.parametrize("part", [DATA[:10] + b"x" * 50_000, b"x" * 400_000, b"x" * 300_000])
def test_a_part_of_another_file_is_thrown_away(target: Path, part: bytes) -> None:
    target.parent.mkdir()
    (target.parent / "net.bin.part").write_bytes(part)
    with served({"net.bin": DATA}) as server:
        download(url(server), target, SHA256)
    assert target.read_bytes() == DATA and server.asked[-1] == "GET /net.bin"


def test_a_complete_part_is_not_downloaded_again(target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "net.bin.part").write_bytes(DATA)
    with served({"net.bin": DATA}) as server:
        download(url(server), target, SHA256)
    assert target.read_bytes() == DATA and server.asked == ["GET /net.bin bytes=300000-"]


def test_without_a_hash_nothing_is_continued(target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "net.bin.part").write_bytes(b"x" * 10)
    with served({"net.bin": DATA}) as server:
        download(url(server), target, None)
    assert target.read_bytes() == DATA and server.asked == ["GET /net.bin"]


@pytest.mark.parametrize(("digest", "kind"), [("0" * 8, "SHA-256"), ("0" * 32, "MD5"), ("0" * 64, "SHA-256")])
def test_a_file_with_another_hash_is_not_kept(target: Path, digest: str, kind: str) -> None:
    with (
        served({"net.bin": DATA}) as server,
        pytest.raises(NotDownloaded, match=f"the {kind} of .* expected .*{digest}"),
    ):
        download(url(server), target, digest)
    assert left(target) == []


def test_an_absent_file_is_asked_for_once(target: Path) -> None:
    with served({}) as server, pytest.raises(NotDownloaded, match=r"/net\.bin answers 404 Not Found$"):
        download(url(server), target, SHA256)
    assert len(server.asked) == 1 and left(target) == []


def test_with_no_network_the_message_comes_at_once(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/net.bin"
    with pytest.raises(NotDownloaded, match=r"^Connection refused$"):
        download(address, target, SHA256)
    assert left(target) == []


def test_two_downloads_of_a_file_at_once_ask_for_it_once(target: Path) -> None:
    with served({"net.bin": DATA}) as server:
        threads = [threading.Thread(target=download, args=(url(server), target, SHA256)) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert server.asked == ["GET /net.bin"] and target.read_bytes() == DATA and left(target) == ["net.bin"]


def test_a_full_disk_is_noticed_before_anything_is_written(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(0, 0, 1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    with served({"net.bin": DATA * 10}) as server, pytest.raises(NotDownloaded, match="3 MB are to come, and 0 MB are"):
        download(url(server), target, None)


def test_a_mirror_replaces_torchvisions_address_and_its_password_is_not_shown(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_TORCHVISION", "ftp://me:secret@mirror.example/models/?key=secret")
    assert mirrored("https://elsewhere.example/net.bin") == "https://elsewhere.example/net.bin"
    with pytest.raises(NotDownloaded) as error:
        download("https://download.pytorch.org/models/net.bin", target, None)
    assert "mirror.example" in str(error.value) and "secret" not in str(error.value)
