"""A small Hugging Face Hub on loopback, so that the tests exercise the real client over real sockets, offline.

`huggingface_hub` talks to it through `HF_ENDPOINT`. It holds models and datasets with their commits and branches,
knows tokens and private repositories, speaks both upload protocols (LFS, and Xet through hf_xet's own `local://`
store), and misbehaves where a test says so:

    with LocalHub(folder) as hub:
        os.environ["HF_ENDPOINT"] = hub.url  # before huggingface_hub is imported
        hub.fail("POST", "/commit/", status=500, times=2)

Beside the standard library it needs only PyYAML; nothing here imports the client that it tests.
"""

import base64
import contextlib
import fnmatch
import hashlib
import json
import re
import socket
import struct
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LARGE = ("safetensors", "bin", "pt", "onnx", "parquet", "arrow", "pkl", "npz", "zip")  # as the Hub's own rules have it
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
FRONT_MATTER = re.compile(r"\s*---\r?\n([\S\s]*?)\r?\n---[ \t]*(\r?\n|$)")
XET_SHARD_HEADER = XET_SHARD_ENTRY = 48  # bytes


@dataclass
class Token:
    """Whom a token belongs to, and what it may do. Tests take access away by editing these in mid-run."""

    user: str
    role: str = "write"  # or "read"
    organisations: tuple[str, ...] = ()


@dataclass
class Fault:
    """What goes wrong with the first `times` requests of this method and path, after `skip` that go well."""

    method: str  # or "*"
    path: str  # a regular expression that is searched in the raw path
    times: int = 1
    skip: int = 0
    delay: float = 0  # seconds before anything else; an hour is a Hub that hangs
    status: int | None = None  # answered in the place of doing the work
    headers: dict[str, str] = field(default_factory=dict)
    body: dict | str | None = None  # JSON, or HTML
    drop: str | None = None  # a connection reset "before", "during" or "after" the work, or "half" of the answer only
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)  # ends a delay whose test is over

    def take(self, method: str, path: str) -> bool:
        if self.hits >= self.times or self.method not in ("*", method) or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass
class Entry:
    """A file in a tree, and where its content is: under its sha256 if it is large, else under its git id."""

    oid: str
    size: int
    sha256: str | None = None
    xet: str | None = None  # hash under which the Xet store knows it

    @property
    def key(self) -> str:
        return self.sha256 or self.oid

    def lfs(self) -> dict:
        """What rows of files say of it; the Hub names the hash "oid" in some and "sha256" in others."""
        large = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return {"lfs": large} if self.sha256 else {}


@dataclass
class Commit:
    id: str
    parent: str | None
    tree: dict[str, Entry]
    title: str
    message: str
    user: str
    date: str


@dataclass
class Repo:
    """One repository; every commit holds its full tree."""

    kind: str  # "model" or "dataset"
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        oid = self.branches.get(revision.removeprefix("refs/heads/"), revision)
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, branch: str, tree: dict[str, Entry], title: str, message: str = "", user: str = "system") -> str:
        oid = uuid.uuid4().hex + uuid.uuid4().hex[:8]
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        self.commits[oid] = Commit(oid, self.branches.get(branch), tree, title, message, user, date)
        self.branches[branch] = oid
        return oid

    def history(self, revision: str = "main") -> Iterator[Commit]:
        """Its commits, the newest first."""
        oid: str | None = self.resolve(revision).id
        while oid:
            yield self.commits[oid]
            oid = self.commits[oid].parent


class HubError(Exception):
    """An error in the shape that the Hub gives it: status, X-Error-Code, X-Error-Message and a JSON body."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.body = status, {"error": message}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}


class LocalHub:
    """The Hub: what it holds, what it was asked, and how a test makes it misbehave.

    Args:
        root: folder of the Xet store.

    Attributes:
        url: its address, the same after `stop` and `start`; what it holds outlives them as well.
        tokens: the tokens it knows, at first "hf_write" and "hf_read" of alice's and "hf_other" of bob's.
        xet: whether it speaks Xet.
        log: one dictionary a request, with its method, path, headers, and the status that was answered.
        bugs: tracebacks of this server; a test should end with none.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.ports = (0, 0)
        self.servers: list[Server] = []
        self.lock = threading.RLock()
        self.faults: list[Fault] = []
        self.reset()

    # Lifecycle

    def reset(self) -> None:
        """Makes an empty Hub of it, for the next test."""
        for fault in self.faults:
            fault.over.set()
        self.tokens = {"hf_write": Token("alice"), "hf_read": Token("alice", "read"), "hf_other": Token("bob")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults, self.log, self.bugs = [], [], []
        self.xet = True
        # A new store each time: a file that an earlier test has uploaded would not be sent again.
        self.xet_store = self.root / f"xet-{uuid.uuid4().hex[:8]}"

    def start(self) -> "LocalHub":
        # Two servers, the Hub and its storage: the client treats a redirect to another origin differently (what it
        # has to know of the file stands on the redirect, and the token must not be sent along).
        handler = type("HandlerOfThisHub", (Handler,), {"hub": self})
        self.servers = [Server(("127.0.0.1", port), handler) for port in self.ports]
        self.ports = tuple(server.server_port for server in self.servers)
        self.url, self.storage_url = (f"http://127.0.0.1:{port}" for port in self.ports)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Goes down as a Hub does: connections that are open are cut, new ones refused."""
        for fault in self.faults:
            fault.over.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        self.servers = []

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What tests say and ask

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Lets requests go wrong; `what` are fields of `Fault`."""
        fault = Fault(method, path, **what)
        with self.lock:
            self.faults.append(fault)
        return fault

    def calls(self, method: str = "*", path: str = "") -> list[dict]:
        """The requests so far with that method, and with the regular expression in their path."""
        return [call for call in self.log if method in ("*", call["method"]) and re.search(path, call["path"])]

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def files(self, name: str, revision: str = "main", kind: str = "model") -> list[str]:
        return sorted(self.repo(name, kind).resolve(revision).tree)

    def read(self, name: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        return self.content(self.repo(name, kind).resolve(revision).tree[path])

    def titles(self, name: str, revision: str = "main", kind: str = "model") -> list[str]:
        """First lines of the commits, the newest first."""
        return [commit.title for commit in self.repo(name, kind).history(revision)]

    # Contents

    def store(self, data: bytes) -> Entry:
        oid = git_id(data)
        self.blobs[oid] = data
        return Entry(oid, len(data))

    def has(self, sha256: str) -> bool:
        return sha256 in self.blobs or sha256 in self.xet_hashes()

    def content(self, entry: Entry) -> bytes:
        if entry.key not in self.blobs:
            self.blobs[entry.key] = self._from_xet_store(entry)
        return self.blobs[entry.key]

    def xet_hashes(self) -> dict[str, str]:
        """From sha256 to Xet hash, for every file in the store: hf_xet leaves both in the shards that it writes there.

        After a shard's header come the files: an entry with the Xet hash, flags and the number of segments; an entry
        for each segment, and one more each where they carry verification; and, if so flagged, one with the sha256.
        """
        found = {}
        for shard in self.xet_store.glob("xet/xorbs/shards/*.mdb") if self.xet else ():
            data, at = shard.read_bytes(), XET_SHARD_HEADER
            while at + XET_SHARD_ENTRY <= len(data):
                xet_hash, (flags, segments) = data[at : at + 32], struct.unpack_from("<II", data, at + 32)
                if xet_hash == b"\xff" * 32:  # the end of the files
                    break
                at += XET_SHARD_ENTRY * (1 + segments * (2 if flags >> 31 & 1 else 1))
                if flags >> 30 & 1:
                    found[_xet_hex(data[at : at + 32])] = _xet_hex(xet_hash)
                    at += XET_SHARD_ENTRY
        return found

    def _from_xet_store(self, entry: Entry) -> bytes:
        """Puts a file together from its chunks, as the Hub does for clients without Xet."""
        from hf_xet import XetFileInfo, XetSession

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            download = {"endpoint": f"local://{self.xet_store}", "token": "xet", "token_expiry_unix_secs": 2**40}
            with XetSession().new_file_download_group(**download) as group:
                group.start_download_file(XetFileInfo(entry.xet, entry.size), str(path))
            return path.read_bytes()


class Server(ThreadingHTTPServer):
    """A server whose stop also cuts the connections that are kept alive."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any):
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the job."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection. A request goes through its fault, if it has one, then through `route` to a method for it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer's body waits 40 ms for its header to be acknowledged
    hub: LocalHub

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        self.url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        self.body_is_read = False
        self.record = {"method": self.command, "path": self.path, "headers": dict(self.headers), "status": None}
        with self.hub.lock:
            self.hub.log.append(self.record)
            self.fault = next((fault for fault in self.hub.faults if fault.take(self.command, self.path)), None)
        try:
            if self.fault is None or self.goes_on(self.fault):
                self.route()
        except HubError as error:
            if not self.body_is_read:
                self.body()  # or what is left of it would be taken for the next request
            self.send(error.status, error.body, error.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.record["status"] = "client went away"
        except Exception as error:  # a mistake in this file, which no test must pass by
            self.hub.bugs.append(traceback.format_exc())
            self.close_connection = True
            self.send(500, {"error": f"a bug of LocalHub: {error!r}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def goes_on(self, fault: Fault) -> bool:
        """Whether the request is worked on in spite of its fault."""
        if fault.delay and fault.over.wait(fault.delay):
            self.cut("the test is over")
        elif fault.drop == "before":
            self.cut("reset before the work")
        elif fault.drop == "during":
            self.body(share=0.5)
            self.cut("reset during the request")
        elif fault.status:
            self.body()
            if isinstance(fault.body, str):
                self.send(fault.status, fault.body.encode(), {"Content-Type": "text/html", **fault.headers})
            else:
                self.send(fault.status, fault.body or {"error": f"injected {fault.status}"}, fault.headers)
        else:
            return True
        return False

    def cut(self, why: str) -> None:
        self.record["status"] = why
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self.connection.close()

    def body(self, share: float = 1) -> bytes:
        """The body of the request, or its first part."""
        self.body_is_read = True
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(int(self.headers.get("Content-Length") or 0) * share))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if share < 1:
                return chunks[0]
        self.rfile.readline()
        return b"".join(chunks)

    def json(self) -> dict:
        return json.loads(self.body() or b"{}")

    def send(self, status: int, answer: bytes | dict | list = b"", headers: dict | None = None) -> None:
        drop = self.fault.drop if self.fault else None
        if drop == "after":
            return self.cut(f"did the work ({status}), answer lost")
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json; charset=utf-8"
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.record["status"] = status
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value).replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if drop == "half" else data)
            self.close_connection = self.close_connection or drop == "half"

    # Who asks

    def token(self) -> Token | None:
        header = self.headers.get("Authorization")
        if not header:
            return None
        if (token := self.hub.tokens.get(header.removeprefix("Bearer ").strip())) is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return token

    def writer(self, namespace: str) -> Token:
        token = self.token()
        if token is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if namespace != token.user and namespace not in token.organisations:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}".')
        if token.role != "write":
            raise HubError(403, "Forbidden: pass a token with write access to this repo")
        return token

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        token, repo, namespace = self.token(), self.hub.repos.get((kind, name)), name.split("/")[0]
        if repo is None or (repo.private and not (token and namespace in (token.user, *token.organisations))):
            # One that is private looks as if it were missing. The client takes a bare 401 for that only from an
            # https address: hence the code, which the Hub need not give.
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        if write:
            self.writer(namespace)
        return repo

    # What is asked

    def route(self) -> None:
        # Split before it is unquoted: the name of a branch may hold a slash.
        parts = [unquote(part) for part in self.url.path.strip("/").split("/")]
        match self.command, *parts:
            case _, "_storage", *rest:
                self.storage(*rest)
            case "GET", "api", "whoami-v2":
                self.whoami()
            case "POST", "api", "validate-yaml":
                self.validate_yaml()
            case "POST", "api", "repos", "create":
                self.create_repo()
            case method, "api", ("models" | "datasets") as kinds, owner, name, *rest:
                what, *arguments = rest or ["revision"]
                write = what == "xet-write-token" or (method == "POST" and what != "paths-info")
                call = getattr(self, f"{method.lower()}_{what.replace('-', '_')}", None) or self.nowhere
                call(self.repo(kinds[:-1], f"{owner}/{name}", write), *arguments)
            case _, "datasets", owner, name, "resolve", revision, *path:
                self.resolve("dataset", f"{owner}/{name}", revision, "/".join(path))
            case _, owner, name, "resolve", revision, *path:
                self.resolve("model", f"{owner}/{name}", revision, "/".join(path))
            case "POST", "datasets", owner, name, "info", "lfs", "objects", "batch":
                self.lfs_batch("dataset", f"{owner}/{name.removesuffix('.git')}")
            case "POST", owner, name, "info", "lfs", "objects", "batch":
                self.lfs_batch("model", f"{owner}/{name.removesuffix('.git')}")
            case _:
                self.nowhere()

    def nowhere(self, *_: Any) -> None:
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def whoami(self) -> None:
        if (token := self.token()) is None:
            raise HubError(401, "Invalid username or password.")
        organisations = [{"name": name} for name in token.organisations]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": token.role}}
        self.send(200, {"type": "user", "name": token.user, "orgs": organisations, "auth": auth})

    def validate_yaml(self) -> None:
        data, errors, warnings = {}, [], []
        try:
            data = front_matter(self.json()["content"])
        except yaml.YAMLError as error:
            errors.append({"message": f"Invalid YAML: {str(error).splitlines()[0]}"})
        kinds = {"license": (str, list), "language": (str, list), "tags": list, "model-index": list, "configs": list}
        errors += [
            {"message": f'"{key}" has the wrong type'}
            for key, kind in kinds.items()
            if key in data and not isinstance(data[key], kind)
        ]
        if not data and not errors:
            warnings.append({"message": "empty or missing yaml metadata in repo card"})
        self.send(400 if errors else 200, {"errors": errors, "warnings": warnings})

    def create_repo(self) -> None:
        asked, token = self.json(), self.token()
        owner = asked.get("organization") or (token.user if token else "")
        self.writer(owner)
        kind, name = asked.get("type") or "model", f"{owner}/{asked['name']}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                return self.send(409, {"error": f"You already created this {kind} repo", "url": url})
            repo = Repo(kind, name, private)
            repo.commit("main", {".gitattributes": self.hub.store(GITATTRIBUTES.encode())}, "initial commit")
            self.hub.repos[kind, name] = repo
        self.send(200, {"url": url, "name": name, "private": private})

    # Reading a repository

    def get_revision(self, repo: Repo, revision: str = "main") -> None:
        commit = repo.resolve(revision)
        files = [
            {"rfilename": path, "size": entry.size, "blobId": entry.oid, **entry.lfs()}
            for path, entry in sorted(commit.tree.items())
        ]
        try:
            card = front_matter(self.hub.content(commit.tree["README.md"]).decode())
        except (KeyError, ValueError, yaml.YAMLError):
            card = {}
        answer = {"_id": "0" * 24, "id": repo.name, "sha": commit.id, "private": repo.private, "gated": False}
        answer |= {"lastModified": commit.date, "siblings": files, "tags": card.get("tags") or [], "cardData": card}
        answer |= {key: card.get(key) for key in ("pipeline_tag", "library_name", "model-index")}
        self.send(200, answer)

    def get_tree(self, repo: Repo, revision: str, *folder: str) -> None:
        tree, recursive = repo.resolve(revision).tree, self.query.get("recursive", "").lower() == "true"
        base, rows, folders = "".join(f"{part}/" for part in folder), [], set()
        for path, entry in sorted(tree.items()):
            if path.startswith(base):
                parts = path.removeprefix(base).split("/")
                depth = len(parts) if recursive else min(2, len(parts))
                folders |= {base + "/".join(parts[:i]) for i in range(1, depth)}
                if recursive or len(parts) == 1:
                    rows.append(_file_row(path, entry))
        if folder and not rows and not folders:
            raise HubError(404, f'{base} does not exist on "{revision}"', "EntryNotFound")
        rows += [{"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())} for path in folders]
        page, cursor = 1000, int(self.query.get("cursor", 0))
        link = {}
        if cursor + page < len(rows):
            query = "".join(f"{key}={quote(value)}&" for key, value in self.query.items() if key != "cursor")
            link = {"Link": f'<{self.hub.url}{self.url.path}?{query}cursor={cursor + page}>; rel="next"'}
        self.send(200, rows[cursor : cursor + page], link)

    def post_paths_info(self, repo: Repo, revision: str) -> None:
        body = self.body().decode()
        paths = (json.loads(body) if body.startswith("{") else parse_qs(body)).get("paths", [])
        tree, rows = repo.resolve(revision).tree, []
        for path in (path.strip("/") for path in paths):
            if path in tree:
                rows.append(_file_row(path, tree[path]))
            elif any(other.startswith(f"{path}/") for other in tree):
                rows.append({"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())})
        self.send(200, rows)

    def get_refs(self, repo: Repo) -> None:
        rows = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()]
        self.send(200, {"branches": rows, "tags": [], "converts": [], "pullRequests": []})

    def get_commits(self, repo: Repo, revision: str) -> None:
        rows = [
            {"id": c.id, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.user}]}
            for c in repo.history(revision)
        ]
        self.send(200, rows)

    def get_auth_check(self, repo: Repo, access: str = "read") -> None:
        if access == "write":
            self.writer(repo.name.split("/")[0])
        self.send(200, b"OK")

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.repo(kind, name)
        commit = repo.resolve(revision)
        if (entry := commit.tree.get(path)) is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.oid}"'}
        if entry.sha256 is None:
            return self.send(200, self.hub.content(entry), headers)
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": entry.size}
        headers |= {"Location": f"{self.hub.storage_url}/_storage/{entry.sha256}"}
        if entry.xet and self.hub.xet:
            route = f"{self.hub.url}/api/{kind}s/{name}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": entry.xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
        self.hub.content(entry)  # storage knows only what has been put together
        self.send(302, b"", headers)

    # Writing to a repository

    def post_branch(self, repo: Repo, name: str) -> None:
        asked = self.json()
        with self.hub.lock:
            if name in repo.branches:
                raise HubError(409, f"Reference already exists: refs/heads/{name}")
            repo.branches[name] = repo.resolve(asked.get("startingPoint") or "main").id
        self.send(200, b"OK")

    def post_preupload(self, repo: Repo, revision: str) -> None:
        asked, tree = self.json(), repo.resolve(revision).tree
        rules = self.hub.content(tree[".gitattributes"]).decode().splitlines() if ".gitattributes" in tree else []
        patterns = [rule.split()[0] for rule in rules if "filter=lfs" in rule]
        files = []
        for path in (file["path"] for file in asked["files"]):
            large = any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)
            known = {"oid": tree[path].key} if path in tree else {}
            files.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known})
        self.send(200, {"files": files, "commitOid": repo.resolve(revision).id})

    def post_commit(self, repo: Repo, branch: str) -> None:
        header, *operations = (json.loads(line) for line in self.body().splitlines() if line.strip())
        header, token = header["value"], self.token()
        with self.hub.lock:
            if branch not in repo.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if header.get("parentCommit") not in (None, repo.branches[branch]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(repo.resolve(branch).tree)
            for operation in operations:
                self.apply(tree, operation["key"], operation["value"])
            title, message = header.get("summary", ""), header.get("description", "")
            oid = repo.commit(branch, tree, title, message, token.user if token else "")
        url = f"{self.hub.url}/{'datasets/' if repo.kind == 'dataset' else ''}{repo.name}/commit/{oid}"
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def apply(self, tree: dict[str, Entry], operation: str, value: dict) -> None:
        path = value["path"]
        if operation == "file":
            tree[path] = self.hub.store(base64.b64decode(value["content"]))
        elif operation == "lfsFile":
            sha256 = value["oid"]
            if not self.hub.has(sha256):
                raise HubError(400, f"LFS pointer pointed to a file that does not exist. Oid: {sha256}")
            size = len(self.hub.blobs[sha256]) if sha256 in self.hub.blobs else value["size"]
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
            tree[path] = Entry(git_id(pointer.encode()), size, sha256, self.hub.xet_hashes().get(sha256))
        elif operation == "deletedFile":
            if tree.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        else:
            raise HubError(400, f"Unsupported operation {operation}")

    # Large files

    def lfs_batch(self, kind: str, name: str) -> None:
        asked = self.json()
        self.repo(kind, name, write=asked["operation"] == "upload")
        objects = []
        for wanted in asked["objects"]:
            oid = wanted["oid"]
            upload = {"href": f"{self.hub.storage_url}/_storage/{oid}", "header": {}}
            verify = {"href": f"{self.hub.url}/_storage/{oid}/verify", "header": {}}
            actions = {} if self.hub.has(oid) else {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": oid, "size": wanted["size"], "authenticated": True, **actions})
        self.send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def storage(self, sha256: str, *_: str) -> None:
        """The storage behind the Hub. It asks for no token: whoever was given the address may use it."""
        if self.command == "PUT":
            data = self.body()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise HubError(400, "The content does not match its sha256")
            self.hub.blobs[sha256] = data
            self.send(200)
        elif self.command == "POST":  # the client verifies what it has uploaded
            if len(self.hub.blobs.get(sha256, b"")) != self.json()["size"]:
                raise HubError(404, "Object not found")
            self.send(200, {"success": True})
        else:
            self.send(200, self.hub.blobs[sha256], {"ETag": f'"{sha256}"'})

    def get_xet_write_token(self, _: Repo, revision: str) -> None:
        if not self.hub.xet:
            raise HubError(404, "Xet is not enabled on this Hub")
        store, expiry = f"local://{self.hub.xet_store}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
        self.send(200, {"casUrl": store, "accessToken": "xet", "exp": expiry}, headers)

    get_xet_read_token = get_xet_write_token


def front_matter(text: str) -> dict:
    """The YAML at the head of a card; {} if there is none."""
    block = FRONT_MATTER.match(text)
    return (yaml.safe_load(block[1]) if block else None) or {}


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _file_row(path: str, entry: Entry) -> dict:
    xet = {"xetHash": entry.xet} if entry.xet else {}
    return {"type": "file", "path": path, "oid": entry.oid, "size": entry.size, **entry.lfs(), **xet}


def _xet_hex(data: bytes) -> str:
    """A Xet hash is printed as four little-endian words of 64 bits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))
