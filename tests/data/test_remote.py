"""Data behind real servers on the loopback: HTTP with a signed URL, and S3. No secret is left anywhere."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.data.drawn import draw_folder
from tests.tiny import tiny_file
from tlkit.data.scan import scan
from tlkit.data.sources import kinds
from tlkit.errors import DataError

pytestmark = pytest.mark.slow
TOKEN, PASSWORD = "s3cr3t/Tok3n+1", "p4ssw0rd"


class _Signed(http.server.SimpleHTTPRequestHandler):
    """Serves files to whoever has the token."""

    asked: ClassVar[list[str]] = []

    def send_head(self):  # type: ignore[no-untyped-def]
        self.asked.append(f"{self.command} {urlsplit(self.path).path}")
        if parse_qs(urlsplit(self.path).query).get("token") != [TOKEN]:
            self.send_error(403)
            return None
        return super().send_head()

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a folder that is served, and the folder."""
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    folder.mkdir()
    _Signed.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Signed, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    kinds._listed.clear()


QUERY = "?token=s3cr3t%2FTok3n%2B1"


@pytest.mark.long
def test_a_run_on_a_signed_url_leaves_no_secret(
    served: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import tlkit

    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    base, folder = served
    draw_folder(tmp_path / "birds", each=8)
    shutil.make_archive(str(folder / "birds"), "zip", tmp_path / "birds")
    run = tlkit.finetune(f"{base}/birds.zip{QUERY}", backbone=tiny_file(), recipe="small_similar", out=tmp_path / "run")
    assert _Signed.asked.count("GET /birds.zip") == 1
    assert str(run.plan.job.data) == f"http://{base.partition('@')[2]}/birds.zip"
    written = [file for file in [*tmp_path.rglob("*")] if file.is_file() and folder not in file.parents]
    said = capfd.readouterr()
    for secret in (TOKEN, "s3cr3t", PASSWORD):
        assert not [file for file in written if secret.encode() in file.read_bytes()]
        assert secret not in said.out + said.err
    kinds._listed.clear()
    again = tlkit.scan(tmp_path / "run" / "split.csv")  # the plan's address has no token: what was kept is used
    assert len(again) == 16 and _Signed.asked.count("GET /birds.zip") <= 2


def test_what_a_server_refuses_or_lacks_is_said_without_the_token(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.data.sources.remote.PAUSE", 0)
    base, _ = served
    with pytest.raises(DataError, match=r"^No such object, folder or bucket: 'http://127.0.0.1:\d+/none.zip'"):
        scan(f"{base}/none.zip{QUERY}")
    for address, said in (
        (f"{base}/none.zip?token=wr0ng-token", r"^'http://127.0.0.1:\d+/none.zip' may not be read: 403"),
        ("http://127.0.0.1:9/x.zip?token=wr0ng-token", r"^Cannot reach 'http://127.0.0.1:9/x.zip'"),
    ):
        with pytest.raises(DataError, match=said) as raised:
            scan(address)
        assert "wr0ng" not in str(raised.value) and raised.value.__cause__ is None


def test_a_table_on_a_server_that_lists_nothing(served: tuple[str, Path], tmp_path: Path) -> None:
    base, folder = served
    expected = scan(draw_folder(folder / "birds"))
    expected.table[["path", "label"]].to_csv(folder / "birds" / "labels.csv", index=False)
    (folder / "birds" / "index.html").write_text("nothing")
    assert scan(f"{base}/birds/labels.csv{QUERY}").keys() == expected.keys()


def test_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="zoo")
        expected = scan(draw_folder(tmp_path / "birds"))
        for path in expected.table["path"]:
            client.upload_file(str(tmp_path / "birds" / path), "zoo", f"birds/{path}")
        found = scan("s3://zoo/birds")
        assert found.keys() == expected.keys() and str(found.files()[0]) == "s3://zoo/birds/crow/0.jpg"
        with pytest.raises(DataError, match=r"^No such object, folder or bucket: 's3://absent/birds'"):
            scan("s3://absent/birds")
    finally:
        server.stop()
        kinds._listed.clear()
