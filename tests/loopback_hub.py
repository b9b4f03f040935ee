"""A server on the loopback that speaks as much of Hugging Face's hub as huggingface_hub needs for runs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

WRITES, READS = "hf_thismaywrite", "hf_thismayread"


@dataclass
class Repo:
    """private: who may read it. branches: the commit of each. commits: contents by path, by commit."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        number = hashlib.sha1(repr((branch, sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.branches[branch], self.commits[number] = number, files
        return number

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Hub:
    """repos: by "USER/NAME". large: what was uploaded as LFS objects. asked: "METHOD /path" of each request."""

    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""


class Answer(Exception):
    """Ends a request. words: status, JSON values, headers."""

    def __init__(self, status: int, values: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.values, self.headers = status, values, headers or {}


def answer(hub: Hub, method: str, path: str, body: bytes, token: str) -> tuple[Any, dict[str, str]]:
    """The values or the bytes of an answer, and its headers. Raises Answer for any other status than 200."""
    if method in ("POST", "PUT") and not path.startswith("/lfs/"):
        if token not in (WRITES, READS):
            raise Answer(401, {"error": "Invalid credentials in Authorization header"})
        if token != WRITES:
            raise Answer(403, {"error": "this token may only read"})
    if path == "/api/validate-yaml":
        return {"errors": [], "warnings": []}, {}
    if path == "/api/repos/create":
        given = json.loads(body)
        name = f"{given['organization'] or 'me'}/{given['name']}"
        if name in hub.repos:
            raise Answer(409, {"error": "it is there", "url": f"{hub.address}/{name}"})
        repo = Repo(given.get("private") is True or given.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b"*.keras filter=lfs"})
        hub.repos[name] = repo
        return {"url": f"{hub.address}/{name}", "name": name, "id": name}, {}
    if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
        assert hashlib.sha256(body).hexdigest() == found[1]
        hub.large[found[1]] = body
        return {}, {}
    found = re.fullmatch(r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?", path)
    repo = hub.repos.get(found[1]) if found else None
    if found is None or repo is None or (repo.private and token not in (WRITES, READS)):
        raise Answer(404 if token else 401, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
    return in_repo(hub, found[1], repo, found[2] or "", body, path.startswith("/api/"))


def in_repo(hub: Hub, name: str, repo: Repo, path: str, body: bytes, api: bool) -> tuple[Any, dict[str, str]]:
    if path == "/info/lfs/objects/batch":
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return {"transfer": "basic", "objects": objects}, {}
    kind, _, rest = path.lstrip("/").partition("/")
    revision, _, file = rest.partition("/")
    revision = unquote(revision) or "main"
    if kind == "branch":
        if revision in repo.branches:
            raise Answer(409, {"error": "it is there"})
        repo.branches[revision] = repo.branches["main"]
        return {}, {}
    files = repo.files(revision)
    if files is None:
        raise Answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
    if kind == "preupload":
        listed = json.loads(body)["files"]
        modes = [{"path": one["path"], "uploadMode": "lfs" if is_large(one["path"]) else "regular"} for one in listed]
        return {"files": [{**one, "shouldIgnore": False} for one in modes]}, {}
    if kind == "commit":
        number = repo.commit(revision, changed(hub, dict(files), body))
        return {"commitUrl": f"{hub.address}/{name}/commit/{number}", "commitOid": number}, {}
    number = repo.branches.get(revision, revision)
    if api:
        siblings = [{"rfilename": one} for one in files]
        return {"id": name, "private": repo.private, "sha": number, "siblings": siblings, "tags": []}, {}
    data = files.get(unquote(file))
    if data is None:
        raise Answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": number})
    return data, {"X-Repo-Commit": number, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}


def is_large(path: str) -> bool:
    return path.endswith((".keras", ".pb")) or "/variables/" in path


def changed(hub: Hub, files: dict[str, bytes], body: bytes) -> dict[str, bytes]:
    """The files of a branch after a commit, whose body is a line of JSON for each change."""
    for line in body.splitlines():
        one = json.loads(line)
        value = one["value"]
        if one["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif one["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
        elif one["key"] == "deletedFile":
            del files[value["path"]]
        else:
            assert one["key"] == "header"
    return files


@contextlib.contextmanager
def hub_served() -> Iterator[Hub]:
    """Serve an empty hub while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            body = self._body()
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status = 200
            try:
                given, headers = answer(hub, self.command, path, body, token)
            except Answer as end:
                status, given, headers = end.status, end.values, end.headers
            data = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_POST = do_PUT = do_GET

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
