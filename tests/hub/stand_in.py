"""The part of the hub's HTTP API that publishing and loading an SAE needs, on this machine and in memory.

Written from the requests of huggingface_hub 2.4 and from the hub's answers as its client reads them. Files that end in .safetensors are large ones (LFS): they
are announced, put one by one, and then named in a commit; others are in the commit itself. Tokens: "writer" owns the namespace "me", "reader" may only read.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LICENSES = ("mit", "apache-2.0", "other")
KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches.setdefault("main", [])
        if not self.branches["main"]:
            self.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        seed = json.dumps([message, len(self.branches[branch]), sorted(files)]).encode() + b"".join(
            files.values()
        )
        self.branches[branch].append(Commit(hashlib.sha1(seed).hexdigest(), message, files))
        return self.branches[branch][-1]

    def at(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.sha == revision), None)


@dataclass
class StandIn:
    """What the hub holds, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    """By prefix and name: "me/saes", "datasets/me/texts"."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Large files that were put, by sha256."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each."""
    trouble: Callable[[str, str], int | None] = lambda _method, _path: None
    """Gives the status to answer a request with, 0 to break the connection, None to serve it."""
    endpoint: str = ""

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """What is in a repository, without what the hub itself put there."""
        commit = self.repositories[name].branches[branch][-1]
        return {path: content for path, content in commit.files.items() if path != ".gitattributes"}

    def messages(self, name: str, branch: str = "main") -> list[str]:
        return [commit.message for commit in self.repositories[name].branches[branch][1:]]

    def sent(self) -> list[str]:
        """Paths of the requests that put something there."""
        reading = ("/preupload/", "/validate-yaml", "/objects/batch", "/paths-info/")
        return [p for m, p in self.requests if m in ("POST", "PUT") and not any(r in p for r in reading)]


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for the client to acknowledge its head
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        trouble = self.hub.trouble(self.command, path)
        if trouble == 0:
            self.close_connection = True
            self.connection.close()
            return
        try:
            if trouble is not None:
                raise RefusedError(trouble, message="trouble on purpose")
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method == self.command:
                    answer(self, body, **found.groupdict())
                    return
            raise RefusedError(404, message=f"the stand-in does not know {self.command} {path}")
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._json({"error": refused.message}, refused.status, headers)

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._bytes(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _bytes(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _who(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", "writer", "reader"):
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return token or None

    def _repository(self, kind: str, name: str, *, write: bool = False) -> Repository:
        who, found = self._who(), self.hub.repositories.get(KINDS[kind] + name)
        if found is None or (found.private and who != "writer"):
            raise RefusedError(404 if who else 401, "RepoNotFound", "Repository not found")
        if write and who is None:
            raise RefusedError(401, message="Invalid username or password.")
        if write and (who != "writer" or not name.startswith("me/")):
            raise RefusedError(403, message="You don't have the rights to write to this repository")
        return found

    def _commit_at(self, repository: Repository, revision: str) -> Commit:
        found = repository.at(revision)
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self, body: bytes) -> None:
        wanted, who = json.loads(body), self._who()
        name = f"{wanted['organization']}/{wanted['name']}"
        if who is None:
            raise RefusedError(401, message="Invalid username or password.")
        if who != "writer" or wanted["organization"] != "me":
            raise RefusedError(
                403, message=f"You don't have the rights to create a model under {wanted['organization']}"
            )
        if name in self.hub.repositories:
            raise RefusedError(409, message="You already created this model repo")
        self.hub.repositories[name] = Repository(
            wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        self._json({"url": f"{self.hub.endpoint}/{name}"})

    def info(self, _: bytes, kind: str, name: str, revision: str | None = None) -> None:
        repository = self._repository(kind, name)
        commit = self._commit_at(repository, revision or "main")
        siblings = [
            {"rfilename": path, **_described(path, content)} for path, content in commit.files.items()
        ]
        self._json(
            {"id": name, "sha": commit.sha, "private": repository.private, "siblings": siblings, "tags": []}
        )

    def tree(self, _: bytes, kind: str, name: str, revision: str) -> None:
        commit = self._commit_at(self._repository(kind, name), revision)
        files = []
        for path, content in commit.files.items():
            described = _described(path, content)
            lfs = described["lfs"] and {"oid": described["lfs"]["sha256"], **described["lfs"]}
            files.append(
                {"type": "file", "path": path, "size": len(content), "oid": described["blobId"], "lfs": lfs}
            )
        self._json([{k: v for k, v in file.items() if v is not None} for file in files])

    def validate(self, body: bytes) -> None:
        head = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        metadata = yaml.safe_load(head[1]) if head else {}
        if metadata.get("license", "mit") not in LICENSES:
            message = f'"license" must be one of {list(LICENSES)}'
            self._json({"errors": [{"message": message}], "warnings": [], "error": message}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        commit = self._commit_at(self._repository(kind, name, write=True), revision)
        files = []
        for file in json.loads(body)["files"]:
            path, there = file["path"], commit.files.get(file["path"])
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            oid = None
            if there is not None:
                oid = hashlib.sha256(there).hexdigest() if mode == "lfs" else git_sha1(there)
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        self._repository("models", name, write=True)
        objects = []
        for wanted in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/_large/{wanted['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.endpoint}/_verify"}
            objects.append(wanted if wanted["oid"] in self.hub.large else {**wanted, "actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, message="these are not the announced bytes")
        self.hub.large[oid] = body
        self._bytes(b"")

    def verify(self, body: bytes) -> None:
        wanted = json.loads(body)
        if len(self.hub.large.get(wanted["oid"], b"")) != wanted["size"]:
            raise RefusedError(404, message="no such large file")
        self._json({})

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, write=True)
        if revision not in repository.branches:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        head = repository.branches[revision][-1]
        if header.get("parentCommit") not in (None, head.sha):
            raise RefusedError(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise RefusedError(400, message="LFS pointer pointed to a file that does not exist")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusedError(400, message=f"the stand-in does not know the operation {key}")
        made = repository.commit(revision, header["summary"], files)
        url = f"{self.hub.endpoint}/{name}/commit/{made.sha}"
        self._json({"success": True, "commitOid": made.sha, "commitUrl": url})

    def branch(self, body: bytes, kind: str, name: str, branch: str) -> None:
        repository = self._repository(kind, name, write=True)
        if branch in repository.branches:
            raise RefusedError(409, message="Reference already exists")
        start = self._commit_at(repository, json.loads(body).get("startingPoint") or "main")
        repository.branches[branch] = [start]
        self._json({}, 201)

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        commit = self._commit_at(self._repository("models", name), revision)
        if path not in commit.files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        content = commit.files[path]
        self._bytes(content, 200, {"X-Repo-Commit": commit.sha, "ETag": f'"{git_sha1(content)}"'})


for _method in ("GET", "HEAD", "POST", "PUT"):
    setattr(Handler, f"do_{_method}", Handler._serve)


def _described(path: str, content: bytes) -> dict[str, Any]:
    lfs = None
    if path.endswith(".safetensors"):
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return {"size": len(content), "blobId": git_sha1(content), "lfs": lfs}


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", _REPO, Handler.info),
    ("GET", _REPO + r"/revision/(?P<revision>.+)", Handler.info),
    ("GET", _REPO + r"/tree/(?P<revision>[^?]+)", Handler.tree),
    ("POST", _REPO + r"/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", _REPO + r"/commit/(?P<revision>.+)", Handler.commit),
    ("POST", _REPO + r"/branch/(?P<branch>.+)", Handler.branch),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/_large/(?P<oid>[0-9a-f]{64})", Handler.put),
    ("POST", r"/_verify", Handler.verify),
    *(
        (method, r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve)
        for method in ("GET", "HEAD")
    ),
)


@contextmanager
def served() -> Generator[StandIn, None, None]:
    """Serve an empty hub on a free port of this machine."""
    hub = StandIn()
    handler = type("ServingHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
