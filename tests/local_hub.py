"""A small Hugging Face Hub on loopback, so that tests can use the real client over real sockets, offline.

`huggingface_hub` talks to it through `HF_ENDPOINT`. It holds models, datasets and Spaces with commits and branches,
knows tokens and private repositories, supports both upload protocols (LFS, and Xet through hf_xet's own `local://`
store), and injects faults where a test asks for them:

    hub = LocalHub(folder).start()
    os.environ["HF_ENDPOINT"] = hub.url  # before huggingface_hub is imported
    hub.fail("POST", "/commit/", status=500, times=2)

Nothing here imports the client under test.
"""

import base64
import hashlib
import json
import re
import secrets
import socket
import struct
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

# For tests of what depends on the upload protocol: Xet, as the client prefers, or LFS alone with `-m slow`.
both_transports = pytest.mark.parametrize("hub", ["xet", pytest.param("lfs", marks=pytest.mark.slow)], indirect=True)

LARGE = (".safetensors", ".bin", ".pt", ".parquet", ".onnx", ".onnx_data")  # uploaded through LFS or Xet
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
XET_SHARD_HEADER = XET_SHARD_ENTRY = 48  # bytes


@dataclass
class Token:
    """Owner and role of a token. Tests change these to revoke access during a run."""

    user: str
    role: str = "write"  # or "read"


@dataclass
class Fault:
    """A fault to inject into the next `times` requests of a method and path."""

    method: str  # or "*"
    path: str  # a regular expression
    times: int = 1
    hang: bool = False  # wait for `over`, then cut the connection
    status: int | None = None  # answer this instead of doing the work
    headers: dict[str, str] = field(default_factory=dict)
    body: dict | str | None = None  # JSON, or HTML
    drop: str | None = None  # reset the connection "before", "during" or "after" the work, or in "half" of the answer
    hits: int = 0
    hit: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def take(self, method: str, path: str) -> bool:
        if self.hits >= self.times or self.method not in ("*", method) or not re.search(self.path, path):
            return False
        self.hits += 1
        self.hit.set()
        return True


@dataclass
class Entry:
    """A file in a tree. Its content is stored under its id: its sha256 if it is large, else its id in git."""

    oid: str
    size: int
    is_large: bool = False
    xet: str | None = None  # its hash in the Xet store

    def row(self, path: str) -> dict:
        """Return the entry as the Hub lists files."""
        row = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.is_large:
            row["lfs"] = {"oid": self.oid, "sha256": self.oid, "size": self.size, "pointerSize": 134}
        return {**row, "xetHash": self.xet} if self.xet else row


@dataclass
class Commit:
    id: str
    tree: dict[str, Entry]
    title: str


@dataclass
class Repo:
    """A repository. A branch is a list of commits, the newest last, and every commit holds its full tree."""

    kind: str  # "model", "dataset" or "space"
    name: str
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        commits = {commit.id: commit for branch in self.branches.values() for commit in branch}
        commits |= {name: branch[-1] for name, branch in self.branches.items()}
        if revision not in commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commits[revision]

    def commit(self, branch: str, tree: dict[str, Entry], title: str) -> str:
        oid = secrets.token_hex(20)
        self.branches.setdefault(branch, []).append(Commit(oid, tree, title))
        return oid


class HubError(Exception):
    """Error answer of the Hub: status, X-Error-Code, X-Error-Message and a JSON body."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message, "X-Error-Code": code}


class LocalHub:
    """The Hub: its contents, the requests it received, and the faults that a test asks for.

    Args:
        root: Folder of the Xet store.

    Attributes:
        url: Address; it and the contents survive `stop` and `start`.
        tokens: Valid tokens, initially "hf_write" and "hf_read" of alice and "hf_other" of bob.
        xet: Whether it supports Xet.
        log: One dictionary per request, with its method, path and the status of the answer.
        bugs: Tracebacks of this server; a test should leave none.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.ports = (0, 0)
        self.servers: list[Server] = []
        self.change = threading.Condition(threading.RLock())
        self.faults: list[Fault] = []
        self.reset()

    # Lifecycle

    def reset(self) -> None:
        """Empty the Hub for the next test."""
        self.end_faults()
        self.tokens = {"hf_write": Token("alice"), "hf_read": Token("alice", "read"), "hf_other": Token("bob")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log, self.bugs = [], []
        self.xet = True
        # Always a new store: a file uploaded by an earlier test would not be sent again.
        self.xet_store = self.root / f"xet-{secrets.token_hex(4)}"

    def start(self) -> "LocalHub":
        # Two servers, the Hub and its storage: the client handles a redirect to another origin differently.
        handler = type("HandlerOfThisHub", (Handler,), {"hub": self})
        self.servers = [Server(("127.0.0.1", port), handler) for port in self.ports]
        self.ports = tuple(server.server_port for server in self.servers)
        self.url, self.storage_url = (f"http://127.0.0.1:{port}" for port in self.ports)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Go down: cut hanging connections and refuse new ones."""
        self.end_faults()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        self.servers = []

    # For tests

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Make requests fail; `what` are fields of `Fault`."""
        fault = Fault(method, path, **what)
        self.faults.append(fault)
        return fault

    def end_faults(self) -> None:
        """Remove all faults, and cut hanging connections."""
        faults, self.faults = self.faults, []
        for fault in faults:
            fault.over.set()

    def calls(self, method: str, path: str) -> list[dict]:
        """Return the requests with a method, and with a regular expression in their path."""
        return [call for call in self.log if call["method"] == method and re.search(path, call["path"])]

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def files(self, name: str, revision: str = "main", kind: str = "model") -> list[str]:
        return sorted(self.repo(name, kind).resolve(revision).tree)

    def read(self, name: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        return self.content(self.repo(name, kind).resolve(revision).tree[path])

    def titles(self, name: str, revision: str = "main", kind: str = "model") -> list[str]:
        """Return the titles of the commits, newest first."""
        return [commit.title for commit in reversed(self.repo(name, kind).branches[revision])]

    def page(self, kind: str, name: str) -> str:
        """Return the address of a repository's page."""
        return f"{self.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"

    def wait_for_title(self, name: str, title: str) -> None:
        """Wait until there is a commit with a title."""
        with self.change:
            assert self.change.wait_for(lambda: title in self.titles(name), timeout=600)

    # Contents

    def store(self, data: bytes) -> Entry:
        oid = git_id(data)
        self.blobs[oid] = data
        return Entry(oid, len(data))

    def large(self, sha256: str, size: int) -> Entry:
        """Return the entry of a large file that has been uploaded."""
        assert self.has(sha256), "committed before it was uploaded"
        return Entry(sha256, size, True, self.xet_hashes().get(sha256))

    def has(self, sha256: str) -> bool:
        return sha256 in self.blobs or sha256 in self.xet_hashes()

    def content(self, entry: Entry) -> bytes:
        if entry.oid not in self.blobs:
            self.blobs[entry.oid] = self._from_xet_store(entry)
        return self.blobs[entry.oid]

    def xet_hashes(self) -> dict[str, str]:
        """Map sha256 to Xet hash for all files in the store, from the shards that hf_xet writes there.

        After a shard's header, each file has an entry with its Xet hash, flags and number of segments; an entry for
        each segment, or two if flagged as verified; and, if so flagged, an entry with the sha256.
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
        """Assemble a file from its chunks."""
        from hf_xet import XetFileInfo, XetSession

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            download = {"endpoint": f"local://{self.xet_store}", "token": "xet", "token_expiry_unix_secs": 2**40}
            with XetSession().new_file_download_group(**download) as group:
                group.start_download_file(XetFileInfo(entry.xet, entry.size), str(path))
            return path.read_bytes()


class Server(ThreadingHTTPServer):
    """A server that speaks HTTP/1.0: no connection outlives an answer, so that `stop` leaves none open."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    """One request per connection. It first meets its fault, if any, and then `route` calls the method for its path."""

    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms
    hub: LocalHub

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        self.url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        self.record = {"method": self.command, "path": self.path, "status": None}
        with self.hub.change:
            self.hub.log.append(self.record)
            self.fault = next((fault for fault in self.hub.faults if fault.take(self.command, self.path)), None)
        try:
            if not (self.fault and self.fails(self.fault)):
                self.data = self.read_body()
                self.route()
        except HubError as error:
            self.send(error.status, {"error": str(error)}, error.headers)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except Exception as error:  # a bug of this file
            self.hub.bugs.append(traceback.format_exc())
            self.send(500, {"error": f"a bug of LocalHub: {error!r}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def fails(self, fault: Fault) -> bool:
        """Make the request fail; return whether it needs no further answer."""
        if fault.hang:
            fault.over.wait()
        if fault.drop == "during":
            self.read_body(share=0.5)
        if fault.hang or fault.drop in ("before", "during"):
            self.cut()
            return True
        if fault.status:
            self.read_body()
            html = {"Content-Type": "text/html"} if isinstance(fault.body, str) else {}
            answer = fault.body.encode() if html else fault.body or {"error": f"injected {fault.status}"}
            self.send(fault.status, answer, {**html, **fault.headers})
        return bool(fault.status)

    def cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
        self.connection.close()

    def read_body(self, share: float = 1) -> bytes:
        size = int(int(self.headers.get("Content-Length") or 0) * share)
        if len(body := self.rfile.read(size)) < size:
            raise ConnectionResetError  # the Hub stops, or the client went away
        return body

    def json(self) -> dict:
        return json.loads(self.data or b"{}")

    def send(self, status: int, answer: bytes | dict | list = b"", headers: dict | None = None) -> None:
        drop = self.fault.drop if self.fault else None
        if drop == "after":
            return self.cut()
        kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json; charset=utf-8"
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.record["status"] = status
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value).replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if drop == "half" else data)

    # Access

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
        if namespace != token.user:
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}".')
        if token.role != "write":
            raise HubError(403, "Forbidden: pass a token with write access to this repo")
        return token

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        token, repo, namespace = self.token(), self.hub.repos.get((kind, name)), name.split("/")[0]
        if repo is None or (repo.private and not (token and namespace == token.user)):
            # A private repository looks as if it did not exist. Over plain HTTP, the client needs the code for that.
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        if write:
            self.writer(namespace)
        return repo

    # Requests

    def route(self) -> None:
        # Unquoted after splitting: the name of a branch may contain a slash.
        parts = [unquote(part) for part in self.url.path.strip("/").split("/")]
        match self.command, *parts:
            case _, "_storage", sha256, *_:
                self.storage(sha256)
            case "POST", "api", "validate-yaml":
                self.send(200, {"errors": [], "warnings": []})  # any card is valid
            case "POST", "api", "repos", "create":
                self.create_repo()
            case method, "api", ("models" | "datasets" | "spaces") as kinds, owner, name, *rest:
                what, *arguments = rest or ["revision"]
                write = what == "xet-write-token" or method == "POST"
                call = getattr(self, f"{method.lower()}_{what.replace('-', '_')}")
                call(self.repo(kinds[:-1], f"{owner}/{name}", write), *arguments)
            case _, ("datasets" | "spaces") as kinds, owner, name, *rest:
                self.git(kinds[:-1], f"{owner}/{name}", *rest)
            case _, owner, name, *rest:
                self.git("model", f"{owner}/{name}", *rest)

    def git(self, kind: str, name: str, what: str, *rest: str) -> None:
        if what == "resolve":
            self.resolve(kind, name, rest[0], "/".join(rest[1:]))
        else:
            self.lfs_batch(kind, name.removesuffix(".git"))

    def create_repo(self) -> None:
        asked, token = self.json(), self.token()
        owner = asked.get("organization") or (token.user if token else "")
        self.writer(owner)
        kind, name = asked.get("type") or "model", f"{owner}/{asked['name']}"
        private = asked.get("visibility") == "private"
        if kind == "space" and asked.get("sdk") not in ("static", "gradio", "docker"):
            raise HubError(400, "Invalid sdk: a Space needs one")
        url = self.hub.page(kind, name)
        with self.hub.change:
            if (kind, name) in self.hub.repos:
                return self.send(409, {"error": f"You already created this {kind} repo", "url": url})
            repo = Repo(kind, name, private)
            repo.commit("main", {".gitattributes": self.hub.store(GITATTRIBUTES.encode())}, "initial commit")
            self.hub.repos[kind, name] = repo
        self.send(200, {"url": url, "name": name, "private": private})

    # Reading a repository

    def get_revision(self, repo: Repo, revision: str = "main") -> None:
        commit = repo.resolve(revision)
        files = [{"rfilename": path, **entry.row(path)} for path, entry in sorted(commit.tree.items())]
        self.send(200, {"id": repo.name, "sha": commit.id, "private": repo.private, "siblings": files, "tags": []})

    def get_tree(self, repo: Repo, revision: str, *folder: str) -> None:
        base = "".join(f"{part}/" for part in folder)
        inside = {path: entry for path, entry in repo.resolve(revision).tree.items() if path.startswith(base)}
        if folder and not inside:
            raise HubError(404, f'{base} does not exist on "{revision}"', "EntryNotFound")
        folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", "/".join(folder)}
        rows = [entry.row(path) for path, entry in inside.items()]
        rows += [{"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())} for path in folders]
        if self.query.get("recursive", "").lower() != "true":
            rows = [row for row in rows if "/" not in row["path"].removeprefix(base)]
        self.send(200, rows)

    def get_auth_check(self, repo: Repo, access: str = "read") -> None:
        if access == "write":
            self.writer(repo.name.split("/")[0])
        self.send(200, b"OK")

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.repo(kind, name)
        commit = repo.resolve(revision)
        if (entry := commit.tree.get(path)) is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.oid}"'}
        if not entry.is_large:
            return self.send(200, self.hub.content(entry), headers)
        headers |= {"X-Linked-Etag": f'"{entry.oid}"', "X-Linked-Size": entry.size}
        headers |= {"Location": f"{self.hub.storage_url}/_storage/{entry.oid}"}
        if entry.xet and self.hub.xet:
            route = f"{self.hub.url}/api/{kind}s/{name}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": entry.xet, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
        self.hub.content(entry)  # assembled, for the storage
        self.send(302, b"", headers)

    # Writing to a repository

    def post_branch(self, repo: Repo, name: str) -> None:
        with self.hub.change:
            if name in repo.branches:
                raise HubError(409, f"Reference already exists: refs/heads/{name}")
            repo.branches[name] = [*repo.branches["main"]]
        self.send(200, b"OK")

    def post_preupload(self, repo: Repo, revision: str) -> None:
        asked, tree = self.json(), repo.resolve(revision).tree
        files = []
        for path in (file["path"] for file in asked["files"]):
            known = {"oid": tree[path].oid} if path in tree else {}
            mode = "lfs" if path.endswith(LARGE) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self.send(200, {"files": files, "commitOid": repo.resolve(revision).id})

    def post_commit(self, repo: Repo, branch: str) -> None:
        header, *operations = (json.loads(line) for line in self.data.splitlines())
        header = header["value"]
        with self.hub.change:
            if header.get("parentCommit") not in (None, repo.resolve(branch).id):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(repo.resolve(branch).tree)
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "file":
                    tree[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
                else:
                    tree[value["path"]] = self.hub.large(value["oid"], value["size"])
            oid = repo.commit(branch, tree, header["summary"])
            self.hub.change.notify_all()
        url = f"{self.hub.page(repo.kind, repo.name)}/commit/{oid}"
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Large files

    def lfs_batch(self, kind: str, name: str) -> None:
        asked = self.json()
        self.repo(kind, name, write=True)
        objects = []
        for wanted in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.storage_url}/_storage/{wanted['oid']}"}}
            actions = {} if self.hub.has(wanted["oid"]) else {"actions": upload}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        self.send(200, {"transfer": "basic", "objects": objects})

    def storage(self, sha256: str) -> None:
        """Answer as the storage behind the Hub. It needs no token: the address is the permission."""
        if self.command == "PUT":
            assert hashlib.sha256(self.data).hexdigest() == sha256
            self.hub.blobs[sha256] = self.data
            self.send(200)
        else:
            self.send(200, self.hub.blobs[sha256], {"ETag": f'"{sha256}"'})

    def get_xet_write_token(self, _: Repo, revision: str) -> None:
        store, expiry = f"local://{self.hub.xet_store}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
        self.send(200, {"casUrl": store, "accessToken": "xet", "exp": expiry}, headers)

    get_xet_read_token = get_xet_write_token


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _xet_hex(data: bytes) -> str:
    """Format a Xet hash, which is four little-endian words of 64 bits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))
