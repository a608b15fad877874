"""A server of this machine with the part of the Hub's API that its client needs for models: repositories, commits, permissions."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN, READER = "hf_writer", "hf_reader"


@dataclass
class Repository:
    """A repository: commits by hash, and branches."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": ""})

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add files to a branch; the hash of the commit."""
        tree = {**self.commits.get(self.branches[branch], {}), **files}
        text = f"{self.branches[branch]} {sorted((name, hashlib.sha1(data).hexdigest()) for name, data in tree.items())}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = tree, sha
        return sha


@dataclass
class LocalHub:
    """The server's state: its address, repositories, uploaded large files, and the requests that were made."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def writes(self) -> list[str]:
        """Paths of the requests that change something."""
        return [path for method, path in self.requests if method in ("POST", "PUT") and "validate-yaml" not in path]


@contextmanager
def serving() -> Iterator[LocalHub]:
    """A running server."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self._route(path.strip("/").split("/"))
        except _RefusedError as refused:
            self._send(b"{}", refused.status, {"X-Error-Code": refused.code})

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - names of the library

    def _send(self, data: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _repository(self, name: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self._token not in (TOKEN, READER)):
            raise _RefusedError(401 if not self._token else 404, "RepoNotFound")
        if repository.gated and self._token != TOKEN:
            raise _RefusedError(403, "GatedRepo")
        if write:
            self._check_writer()
        return repository

    def _check_writer(self) -> None:
        if self._token != TOKEN:
            raise _RefusedError(403 if self._token else 401, "")

    @staticmethod
    def _tree(repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise _RefusedError(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", *rest]:
                self._info(f"{owner}/{name}", "/".join(rest))
            case ["api", "models", owner, name, "tree", *rest]:
                _, tree = self._tree(self._repository(f"{owner}/{name}"), "/".join(rest))
                files = {path: {"type": "file", "path": path, "size": len(data), "oid": _blob(data)} for path, data in tree.items()}
                self._answer(list(files.values()))
            case ["api", "models", owner, name, "branch", *rest]:
                repository = self._repository(f"{owner}/{name}", write=True)
                repository.branches.setdefault("/".join(rest), repository.branches["main"])
                self._answer({})
            case ["api", "models", owner, name, "preupload", *_]:
                self._repository(f"{owner}/{name}", write=True)
                modes = {True: "lfs", False: "regular"}
                files = [(each["path"], each["path"].endswith(".safetensors")) for each in json.loads(self.body)["files"]]
                self._answer({"files": [{"path": path, "uploadMode": modes[large], "shouldIgnore": False} for path, large in files]})
            case ["api", "models", owner, name, "commit", *rest]:
                self._commit(f"{owner}/{name}", "/".join(rest))
            case [owner, git, "info", "lfs", "objects", "batch"]:
                self._repository(f"{owner}/{git.removesuffix('.git')}", write=True)
                wanted = json.loads(self.body)["objects"]
                self._answer(
                    {"objects": [{**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}} for each in wanted]}
                )
            case ["lfs", oid]:
                self.hub.large[oid] = self.body
                self._send(b"")
            case [owner, name, "resolve", revision, *rest]:
                self._resolve(f"{owner}/{name}", revision, "/".join(rest))
            case _:
                raise _RefusedError(404, "")

    def _create(self) -> None:
        self._check_writer()
        given = json.loads(self.body)
        name = f"{given['organization']}/{given['name']}"
        if name in self.hub.repositories:
            self._send(json.dumps({"url": f"{self.hub.url}/{name}"}).encode(), 409)
            return
        self.hub.repositories[name] = Repository(private=given.get("visibility") == "private" or bool(given.get("private")))
        self.hub.repositories[name].commit({".gitattributes": b""})
        self._answer({"url": f"{self.hub.url}/{name}"})

    def _info(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        sha, tree = self._tree(repository, revision)
        siblings = [{"rfilename": path} for path in tree]
        self._answer({"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def _commit(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        if branch not in repository.branches:
            raise _RefusedError(404, "RevisionNotFound")
        files: dict[str, bytes] = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    self.hub.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
        sha = repository.commit(files, branch)
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        sha, tree = self._tree(self._repository(name), revision)
        if path not in tree:
            raise _RefusedError(404, "EntryNotFound")
        self._send(tree[path], headers={"ETag": f'"{_blob(tree[path])}"', "X-Repo-Commit": sha})


def _blob(data: bytes) -> str:
    """The hash by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
