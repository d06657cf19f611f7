"""A stand-in for the HuggingFace Hub: the part of its HTTP API that huggingface_hub asks for datasets, and for models
that are read, in memory.

Repositories are `owner/name` -> commits, each a mapping of names to bytes. Files are uploaded within the commit (the
regular mode); large-file storage is not played.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin_secret_of_the_owner"


@dataclass
class Repository:
    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes], message: str) -> str:
        text = json.dumps([len(self.commits), message, sorted((n, sum_of(c)) for n, c in files.items())])
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.messages.append(message)
        return oid


@dataclass
class Hub:
    """url: its endpoint. repositories: by `owner/name`. asked: the requests, as `METHOD /path`. unknown: those about
    repositories that the stand-in does not play. read_only: whether its token may only read."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    read_only: bool = False


def sum_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def standin() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        for method, form, answer in ROUTES:
            found = re.fullmatch(form, path)
            if method == self.command and found:
                answer(self, *found.groups(), body) if method == "POST" else answer(self, *found.groups())
                return
        if any(
            part in path for part in ("/datasets/", "/models/", "/repos/")
        ):  # the client also asks for what concerns no repository
            self.hub.unknown.append(f"{self.command} {path}")
        self._send(404, {"error": "not played"})

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().strip(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, status: int, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self) -> bool:
        if not self._is_owner():
            self._send(401, {"error": "Invalid username or password."}, X_Error_Message="Invalid username or password.")
        elif self.hub.read_only:
            self._send(403, {"error": "this token may only read"}, X_Error_Message="this token may only read")
        return self._is_owner() and not self.hub.read_only

    def _found(self, name: str) -> Repository | None:
        """A repository that may be read; the Hub does not tell a private one from none."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._is_owner()):
            status = 404 if self._is_owner() else 401
            self._send(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repository

    def _files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self._found(name)
        if repository is None:
            return None
        oid = repository.head if revision == "main" else revision
        if oid not in repository.commits:
            self._send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return None
        return oid, repository.commits[oid]

    def create(self, body: bytes) -> None:
        if not self._may_write():
            return
        said = json.loads(body)
        name = f"{said['organization']}/{said['name']}"
        status = 409 if name in self.hub.repositories else 200
        if status == 200:
            self.hub.repositories[name] = Repository(private=said.get("visibility", "public") == "private")
            self.hub.repositories[name].commit({".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        self._send(status, {"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": name})

    def validate(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---")
        self._send(200, {"errors": [], "warnings": []})

    def info(self, name: str, revision: str = "main") -> None:
        found = self._files(name, revision)
        if found is not None:
            siblings = [{"rfilename": file} for file in sorted(found[1])]
            whole = {"id": name, "sha": found[0], "private": self.hub.repositories[name].private, "tags": []}
            self._send(200, whole | {"siblings": siblings, "downloads": 0, "likes": 0})

    def tree(self, name: str, revision: str) -> None:
        found = self._files(name, revision)
        if found is not None:
            files = sorted(found[1].items())
            entries = [{"type": "file", "path": n, "size": len(c), "oid": sum_of(c)} for n, c in files]
            self._send(200, entries)

    def preupload(self, name: str, revision: str, body: bytes) -> None:
        if self._may_write() and self._files(name, revision):
            files = [f["path"] for f in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._send(200, {"files": modes})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        if not self._may_write() or (found := self._files(name, revision)) is None:
            return
        files, message = dict(found[1]), ""
        for line in body.decode().splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header":
                message = value["summary"]
            elif said["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.repositories[name].commit(files, message)
        self._send(
            200, {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self._files(name, revision)
        if found is not None and file in found[1]:
            content = found[1][file]
            self._send(200, content, ETag=f'"{sum_of(content)}"', X_Repo_Commit=found[0], Accept_Ranges="bytes")
        elif found is not None:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])


_NAME, _REVISION = r"([^/]+/[^/]+)", r"([^/]+)"
ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"/api/(?:datasets|models)/{_NAME}", _Handler.info),
    ("GET", f"/api/(?:datasets|models)/{_NAME}/revision/{_REVISION}", _Handler.info),
    ("GET", f"/api/(?:datasets|models)/{_NAME}/tree/{_REVISION}/?", _Handler.tree),
    ("POST", f"/api/datasets/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"/api/datasets/{_NAME}/commit/{_REVISION}", _Handler.commit),
    ("GET", f"(?:/datasets)?/{_NAME}/resolve/{_REVISION}/(.+)", _Handler.resolve),
    ("HEAD", f"(?:/datasets)?/{_NAME}/resolve/{_REVISION}/(.+)", _Handler.resolve),
)
