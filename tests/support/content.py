"""A server with every kind of content that devpi-server knows, made only through its HTTP interface."""

from tests.support.client import Client, file_path, file_relpath, toxresult
from tests.support.devpi import Server
from tests.support.packages import build_docs, build_sdist, build_wheel, build_zip
from tests.support.upstream import Upstream

__all__ = [
    "ODD_NAMES",
    "Client",
    "build_docs",
    "build_sdist",
    "build_wheel",
    "build_zip",
    "file_path",
    "file_relpath",
    "populate_basics",
    "populate_everything",
    "populate_mirrors",
    "populate_private",
    "toxresult",
    "upload_hash_name",
]

# File names that devpi accepts and that need quoting in a URL. `#` is on its own, see upload_hash_name.
ODD_NAMES = (
    "odd-1.0 with a space.zip",
    "odd-1.0+local.zip",
    "odd-1.0%.zip",
    "odd-1.0%20.zip",
    "odd-1.0%2Fslash.zip",
    "odd-1.0?query=1.zip",
    "odd-1.0;semi&and=is,comma.zip",
    "odd-1.0-~tilde'!()*@$:.zip",
    "odd-1.0-é-日本-ß.zip",
    "odd-1.0-e\u0301-decomposed.zip",
    "odd-1.0\\back[slash]{}|^`<>.zip",
)


def populate_basics(server: Server, user: str = "basic") -> None:
    """Make one user's releases, replacements and deletions, by means that every release since 4.0 has."""
    with Client(server.url) as client:
        client.create_user(user)
        client.login(user, "secret")
        for index in (f"{user}/dev", f"{user}/stable"):
            client.create_index(index, volatile=True)
        dev = f"{user}/dev"
        for project in ("thing", "odd", "gone"):
            client.register(dev, project, "1.0")  # not needed from 5.0 on
        for version in ("1.0", "1.1"):
            client.upload_wheel(dev, "thing", version, version.encode())
        client.upload_toxresult(client.upload_sdist(dev, "thing", "1.0"), toxresult())
        client.upload_docs(dev, "thing", "1.0")
        client.upload_wheel(dev, "thing", "1.0", b"replaced")
        client.push(dev, "thing", "1.0", f"{user}/stable")
        client.upload(dev, "odd", "1.0", ("odd-1.0+l é.zip", build_zip({"a": b"b"})))
        client.delete_version(dev, "thing", "1.1")
        client.upload_wheel(dev, "gone", "1.0")
        client.delete_project(dev, "gone")


def populate_everything(server: Server, upstream: Upstream) -> None:
    """Fill an empty running primary with all kinds of content and wait for its events."""
    populate_private(server)
    populate_mirrors(server, upstream)
    server.wait_for_events()


def populate_private(server: Server) -> None:
    """Make users, private indexes, releases, documents, tox results, pushes, replacements, deletions."""
    with Client(server.url) as client:
        client.login()
        _users(client)
        client.login("alice", "secret")
        _indexes(client)
        _releases(client)
        _odd_names(client)
        _replacements(client)
        _pushes(client)
        _deletions(client)
        _recreations(client)
        client.login()
        client.modify_user("root", password="root-secret")
        client.login("root", "root-secret")
        client.modify_user("root", password="")


def populate_mirrors(server: Server, upstream: Upstream, *, odd_names: bool = True) -> None:
    """Make mirror indexes with cached, never cached, deleted and external files.

    `odd_names=False` is for `devpi-export --include-mirrored-files`, which dies of them.
    """
    _fill_upstream(upstream, odd_names=odd_names)
    with Client(server.url) as client:
        client.login()
        client.create_mirror("root/mirror", upstream.simple_url, mirror_cache_expiry=0)
        client.create_mirror("root/external", upstream.simple_url, mirror_use_external_urls=True)
        client.create_mirror("root/dropped", upstream.simple_url)
        client.create_index("root/onmirror", bases=["root/mirror"], mirror_whitelist=["*"])
        _cached_files(client)
        _changes_upstream(client, upstream)
        _mirror_deletions(client)
        client.upload_wheel("root/onmirror", "ours", "1.0", b"on top of a mirror")
        client.simple("root/onmirror", "plain")


def upload_hash_name(client: Client, index: str) -> str:
    """Upload a file with `#` in its name, which devpi stores but cannot serve, and return its relpath."""
    return client.upload(index, "hashed", "1.0", ("hashed-1.0#hash.zip", build_zip({"a": b"hash"})))


def _users(client: Client) -> None:
    client.create_user("alice", email="alice@example.com", title="Alice Ä")
    client.create_user("bob")
    client.create_user("carol")
    client.modify_user("bob", password="new-secret", description="changed", custom_data={"k": [1, 2.5, None]})


def _indexes(client: Client) -> None:
    client.create_index("alice/dev", volatile=True)
    client.create_index("alice/prod", volatile=False, bases=["alice/dev"], title="Production")
    client.create_index("alice/gone", volatile=True)
    client.modify_index("alice/prod", "acl_upload+=bob", "mirror_whitelist+=*")


def _releases(client: Client) -> None:
    for version in ("0.9", "1.0", "1.1.dev1"):
        client.upload_wheel("alice/dev", "foo-bar", version, version.encode())
        client.upload_sdist("alice/dev", "foo-bar", version, version.encode())
    client.upload("alice/dev", "Big.Name_x", "2!1.0+l.1", build_wheel("Big.Name_x", "2!1.0+l.1"))
    client.upload_wheel("alice/dev", "large", "1.0", bytes(range(256)) * 4_000)
    client.upload("alice/dev", "empty", "1.0", ("empty-1.0.zip", b""))
    client.register("alice/dev", "registered", "1.0", summary="no file", description="ä " * 2_000)
    client.upload_docs("alice/dev", "foo-bar", "1.0")
    relpath = client.upload_wheel("alice/dev", "tested", "1.0", b"tested")
    client.upload_toxresult(relpath, toxresult())
    client.upload_toxresult(relpath, toxresult("failed"))


def _odd_names(client: Client) -> None:
    for number, name in enumerate(ODD_NAMES):
        client.upload("alice/dev", "odd", "1.0", (name, build_zip({"number": str(number).encode()})))


def _replacements(client: Client) -> None:
    client.upload_wheel("alice/dev", "foo-bar", "1.0", b"replaced")
    client.upload_wheel("alice/dev", "foo-bar", "1.0", b"replaced")
    client.upload_docs("alice/dev", "foo-bar", "1.0", build_docs("replaced"))


def _pushes(client: Client) -> None:
    client.push("alice/dev", "foo-bar", "1.0", "alice/prod")
    client.push("alice/dev", "tested", "1.0", "alice/prod")
    client.push("alice/dev", "odd", "1.0", "alice/gone")


def _deletions(client: Client) -> None:
    client.upload_sdist("alice/dev", "shrinking", "1.0")
    client.delete_file(client.upload_wheel("alice/dev", "shrinking", "1.0"))
    client.upload_wheel("alice/dev", "shrinking", "2.0")
    client.upload_docs("alice/dev", "shrinking", "2.0")
    client.delete_version("alice/dev", "shrinking", "2.0")
    client.delete_file(client.upload_wheel("alice/prod", "forced", "1.0"), force=True)
    client.upload_wheel("alice/dev", "vanished", "1.0")
    client.delete_project("alice/dev", "vanished")
    client.delete_index("alice/gone")
    client.login("bob", "new-secret")
    client.create_index("bob/dev", volatile=True)
    client.upload_wheel("bob/dev", "bobs", "1.0", b"kept")
    client.login("carol", "secret")
    client.create_index("carol/dev", volatile=True)
    client.upload_wheel("carol/dev", "carols", "1.0")
    client.login()
    client.delete_user("carol")
    client.login("alice", "secret")


def _recreations(client: Client) -> None:
    client.upload_wheel("alice/dev", "vanished", "1.0", b"again")
    client.create_index("alice/gone", volatile=True, bases=["alice/prod"])
    client.upload_wheel("alice/gone", "odd", "1.0", b"back")
    relpath = client.upload_wheel("alice/dev", "same", "1.0", b"same bytes")
    client.delete_file(relpath)
    client.upload_wheel("alice/dev", "same", "1.0", b"same bytes")


def _fill_upstream(upstream: Upstream, *, odd_names: bool) -> None:
    for version in ("1.0", "2.0"):
        upstream.add_wheel("plain", version, version.encode())
        upstream.add_wheel("md5", version, version.encode(), "md5")
        upstream.add_wheel("nohash", version, version.encode(), "")
    for number, name in enumerate(ODD_NAMES if odd_names else ("odd-1.0.zip",)):
        upstream.add_file("odd", name, build_zip({"number": f"upstream {number}".encode()}))
    upstream.add_wheel("never", "1.0", b"never cached")
    upstream.add_wheel("unwanted", "1.0")


def _cached_files(client: Client) -> None:
    for index in ("root/mirror", "root/dropped"):
        for project in ("plain", "md5", "nohash"):
            _cache(client, index, project, "1.0")
    client.simple("root/mirror", "never")
    client.simple("root/external", "plain")
    for relpath in client.links("root/mirror", "odd").values():
        client.fetch(relpath)


def _changes_upstream(client: Client, upstream: Upstream) -> None:
    upstream.add_wheel("plain", "3.0", b"later")
    upstream.remove_file("plain", build_wheel("plain", "2.0")[0])
    upstream.add_wheel("nohash", "1.0", b"other bytes under the same name", "")
    for project in ("plain", "md5", "nohash"):
        client.refresh("root/mirror", project)
    _cache(client, "root/mirror", "plain", "3.0")
    # The same relpath with other bytes: the link has no hash that could change its path.
    nohash = client.links("root/mirror", "nohash")[build_wheel("nohash", "1.0")[0]]
    client.delete_file(nohash, force=True)
    client.refresh("root/mirror", "nohash")
    _cache(client, "root/mirror", "nohash", "1.0")


def _mirror_deletions(client: Client) -> None:
    _cache(client, "root/mirror", "unwanted", "1.0")
    client.delete_project("root/mirror", "unwanted", force=True)
    _cache(client, "root/mirror", "md5", "2.0")
    client.delete_version("root/mirror", "md5", "2.0", force=True)
    client.modify_index("root/dropped", "volatile=True")
    client.delete_index("root/dropped")


def _cache(client: Client, index: str, project: str, version: str) -> None:
    filename = build_wheel(project, version)[0]
    client.fetch(client.links(index, project)[filename])
