"""Random operations on a real primary; those that it refuses did not happen."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.support.client import PASSWORD, Client, toxresult
from tests.support.content import ODD_NAMES, build_docs, build_zip
from tests.support.devpi import Server
from tests.support.growing import GrowingHistory, live_files
from tests.support.upstream import Upstream

USERS = ("ann", "ben")
STAGES = ("dev", "prod")
PROJECTS = ("alpha", "Beta.x", "gamma")
VERSIONS = ("1.0", "1.1", "2.0")
MIRRORED = ("plain", "md5", "nohash")
PAYLOADS = (b"one", b"two", b"three" * 500)


class Operations:
    """A primary with an upstream, and what may happen to it.

    done: what has happened, for whoever has to find out why a test failed.
    """

    def __init__(
        self,
        primary: Server,
        upstream: Upstream,
        random: Random,
        payloads: Sequence[bytes] = PAYLOADS,
        *,
        circles: bool = True,
    ) -> None:
        """Begin with an empty primary; `payloads` are the contents that files may have.

        circles: whether bases may come to be in a circle, as where an index is made again below one whose
            base it was; devpi-import does not take that.
        """
        self.done: list[str] = []
        self._circles = circles
        self._payloads = payloads
        self._history = GrowingHistory(primary.serverdir)
        self._primary = primary
        self._upstream = upstream
        self._random = random
        self._clients: dict[str, Client] = {"root": Client(primary.url).login()}
        for project, kind in (("plain", "sha256"), ("md5", "md5"), ("nohash", "")):
            for version in VERSIONS:
                upstream.add_wheel(project, version, version.encode(), kind)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def one(self) -> None:
        """Do something that is possible at the moment."""
        while True:
            action = self._random.choice(_ACTIONS)
            try:
                said = action(self)
            except AssertionError as refusal:
                # What is possible is the server's business: a base index may be gone, a version have no file.
                if " answered 4" not in str(refusal):
                    raise
                continue
            if said:
                self.done.append(f"{action.__name__}: {said}")
                return

    def change_everything(self) -> None:
        """Change, replace or delete whatever private indexes hold, and all settings."""
        self.done.append("change_everything")
        for user in (*USERS, "last"):
            if user not in self._root.users():
                gone = self._clients.pop(user, None)
                if gone is not None:
                    gone.close()
                self._root.create_user(user)
        for user in self._root.users():
            self._root.modify_user(user, title="changed")
        for index in self._indexes("stage"):
            # Without bases, since one of them may be gone: then devpi takes no change.
            self._owner(index).modify_index(index, "title=changed", "bases=")
        for number, (index, project, version) in enumerate(self._versions()):
            owner = self._owner(index)
            if number % 3 == 0:
                owner.delete_version(index, project, version)
                continue
            owner.register(index, project, version, summary="changed")
            owner.upload_docs(index, project, version, build_docs("changed"))
            for relpath in self._releases():
                if relpath.startswith(f"{index}/") and self._is_of(relpath, project, version):
                    owner.delete_file(relpath)
            owner.upload_wheel(index, project, version, b"changed")
        # And the lists of versions, and of projects.
        projects = {(index, project) for index, project, _ in self._versions()}
        for index, project in projects | {(index, "last") for index in self._indexes("stage")}:
            self._owner(index).upload_wheel(index, project, "9.0")

    def _is_of(self, relpath: str, project: str, version: str) -> bool:
        meta = live_files(self._history.latest())[relpath]
        return (meta["project"], meta["version"]) == (project, version)

    # What there is.

    @property
    def _root(self) -> Client:
        return self._clients["root"]

    def _indexes(self, kind: str) -> list[str]:
        users: dict[str, Any] = self._root.users()
        found = [
            f"{user}/{name}"
            for user, config in users.items()
            for name, index in config["indexes"].items()
            if index["type"] == kind
        ]
        return sorted(found)

    def _pick(self, among: list[Any]) -> Any:
        return self._random.choice(among) if among else None

    def _owner(self, index: str) -> Client:
        user = index.split("/")[0]
        if user not in self._clients:  # the answer to its creation was lost
            self._clients[user] = Client(self._primary.url).login(user, PASSWORD)
        return self._clients[user]

    def _versions(self) -> list[tuple[str, str, str]]:
        stages = set(self._indexes("stage"))
        latest = self._history.latest()
        found = [
            (index_of(key), value["name"], value["version"])
            for key, (keyname, _, value) in latest.items()
            if keyname == "PROJVERSION" and value and index_of(key) in stages
        ]
        return sorted(found)

    def _releases(self) -> list[str]:
        live = live_files(self._history.latest())
        stages = set(self._indexes("stage"))
        return sorted(
            relpath
            for relpath in live
            if index_of(relpath) in stages and not any(word in relpath for word in (".doc.zip", ".toxresult"))
        )

    # What may happen; each returns what it did, "" where there is nothing to do it to.

    def create_user(self) -> str:
        missing = sorted(set(USERS) - set(self._root.users()))
        user = self._pick(missing)
        if user is None:
            return ""
        gone = self._clients.pop(user, None)
        if gone is not None:
            gone.close()
        self._root.create_user(user)
        return str(user)

    def modify_user(self) -> str:
        user = self._pick(sorted(set(USERS) & set(self._root.users())))
        if user is None:
            return ""
        self._root.modify_user(user, title=f"title {len(self.done)}")
        return str(user)

    def delete_user(self) -> str:
        user = self._pick(sorted(set(USERS) & set(self._root.users())))
        if user is None or self._random.random() < 0.7:
            return ""
        self._root.delete_user(user)
        return str(user)

    def create_index(self) -> str:
        users = ["root", *sorted(set(USERS) & set(self._root.users()))]
        wanted = [f"{user}/{name}" for user in users for name in STAGES]
        index = self._pick(sorted(set(wanted) - set(self._indexes("stage"))))
        if index is None:
            return ""
        possible = [base for base in self._indexes("stage") if self._circles or base < index]
        bases = self._random.sample(possible, k=min(1, len(possible)))
        self._owner(index).create_index(index, volatile=True, bases=bases)
        return f"{index} on {bases}"

    def modify_index(self) -> str:
        index = self._pick(self._indexes("stage"))
        if index is None:
            return ""
        self._owner(index).modify_index(index, f"title=title {len(self.done)}")
        return str(index)

    def delete_index(self) -> str:
        index = self._pick(self._indexes("stage"))
        if index is None or self._random.random() < 0.6:
            return ""
        self._owner(index).delete_index(index)
        return str(index)

    def upload(self) -> str:
        index = self._pick(self._indexes("stage"))
        if index is None:
            return ""
        project, version = self._random.choice(PROJECTS), self._random.choice(VERSIONS)
        return self._owner(index).upload_wheel(index, project, version, self._random.choice(self._payloads))

    def upload_odd_name(self) -> str:
        index = self._pick(self._indexes("stage"))
        if index is None:
            return ""
        name = self._random.choice(ODD_NAMES)
        content = build_zip({"payload": self._random.choice(self._payloads)})
        return self._owner(index).upload(index, "odd", "1.0", (name, content))

    def register(self) -> str:
        index = self._pick(self._indexes("stage"))
        if index is None:
            return ""
        project, version = self._random.choice(PROJECTS), self._random.choice(VERSIONS)
        self._owner(index).register(index, project, version, summary=f"ä {len(self.done)}")
        return f"{index} {project} {version}"

    def upload_docs(self) -> str:
        found = self._pick(self._versions())
        if found is None:
            return ""
        content = build_docs(f"docs {self._random.randrange(3)}")
        index, project, version = found
        return self._owner(index).upload_docs(index, project, version, content)

    def upload_toxresult(self) -> str:
        relpath = self._pick(self._releases())
        # The same content for the same file: a name may be used again within a second.
        return "" if relpath is None else self._owner(relpath).upload_toxresult(relpath, toxresult())

    def push(self) -> str:
        found, target = self._pick(self._versions()), self._pick(self._indexes("stage"))
        if found is None or target == found[0] or target.split("/")[0] != found[0].split("/")[0]:
            return ""
        index, project, version = found
        self._owner(target).push(index, project, version, target)
        return f"{found} to {target}"

    def delete_file(self) -> str:
        relpath = self._pick(self._releases())
        if relpath is None:
            return ""
        self._owner(relpath).delete_file(relpath)
        return str(relpath)

    def delete_version(self) -> str:
        found = self._pick(self._versions())
        if found is None:
            return ""
        self._owner(found[0]).delete_version(*found)
        return str(found)

    def delete_project(self) -> str:
        found = self._pick(self._versions())
        if found is None or self._random.random() < 0.5:
            return ""
        self._owner(found[0]).delete_project(*found[:2])
        return str(found[:2])

    def create_mirror(self) -> str:
        missing = sorted({"root/mirror", "root/second"} - set(self._indexes("mirror")))
        index = self._pick(missing)
        if index is None:
            return ""
        self._root.create_mirror(index, self._upstream.simple_url, volatile=True, mirror_cache_expiry=0)
        return str(index)

    def fetch_mirrored(self) -> str:
        index, project = self._pick(self._indexes("mirror")), self._random.choice(MIRRORED)
        if index is None:
            return ""
        relpath = self._pick(sorted(self._root.links(index, project).values()))
        if relpath is None:
            return ""
        self._root.fetch(relpath)
        return str(relpath)

    def change_upstream(self) -> str:
        index = self._pick(self._indexes("mirror"))
        if index is None:
            return ""
        version = f"3.{len(self.done)}"
        self._upstream.add_wheel("plain", version, version.encode())
        self._root.refresh(index, "plain")
        return f"plain {version}, seen by {index}"

    def delete_mirrored(self) -> str:
        index, project = self._pick(self._indexes("mirror")), self._random.choice(MIRRORED)
        if index is None or project not in self._root.index_config(index).get("projects", []):
            return ""
        self._root.delete_project(index, project, force=True)
        return f"{index} {project}"

    def delete_mirror(self) -> str:
        index = self._pick(self._indexes("mirror"))
        if index is None or self._random.random() < 0.7:
            return ""
        self._root.delete_index(index)
        return str(index)


def index_of(relpath: str) -> str:
    """Return the index that a file belongs to."""
    return "/".join(relpath.split("/")[:2])


Action = Callable[[Operations], str]

# What happens more often is named more often.
_ACTIONS: tuple[Action, ...] = (
    *(Operations.upload,) * 8,
    *(Operations.create_index,) * 3,
    *(Operations.fetch_mirrored,) * 4,
    *(Operations.upload_docs, Operations.upload_toxresult, Operations.push, Operations.delete_file) * 2,
    *(Operations.upload_odd_name, Operations.register, Operations.delete_version),
    *(Operations.delete_project, Operations.create_user, Operations.modify_user, Operations.delete_user),
    *(Operations.modify_index, Operations.delete_index, Operations.create_mirror),
    *(Operations.change_upstream, Operations.delete_mirrored, Operations.delete_mirror),
)
