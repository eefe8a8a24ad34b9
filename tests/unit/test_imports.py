"""The import table: who may know whom, read from the code itself."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import replisync

PACKAGE = Path(replisync.__file__).parent

# No I/O in here, and nothing that does some: time and chunks are handed in.
CORE = {"errors", "wire", "auth", "changelog", "keys", "plan", "ports", "verify.entries"}
# Libraries that do no I/O by being used as the core uses them.
HARMLESS = {
    *("__future__", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "hashlib"),
    *("itertools", "math", "re", "struct", "types", "typing", "argon2", "itsdangerous"),
}
# Each library is known at one edge alone, where its errors are translated.
HOMES = {
    "httpx": {"heads", "origin", "plain", "primary", "tls"},
    "httpcore": {"heads"},
    # Files in PostgreSQL are rows of the target's database.
    "sqlalchemy": {"store", "filestore.database", "filestore.dbsurvey"},
    "sqlite3": {"store"},
    "pg8000": {"store"},
    "alembic": {"store"},
    "click": {"cli"},
    "rich": {"progress"},
    "structlog": {"logs"},
    "tenacity": {"loop"},
    "argon2": {"auth"},
    "itsdangerous": {"auth"},
    "fcntl": {"serverdir"},
    "signal": {"stop"},
    # The schema silences Alembic, the wire to PostgreSQL its driver; the plugin logs as devpi-server does.
    "logging": {"logs", "store.schema", "store.pgwire", "plugin"},
    "devpi_server": {"plugin"},
    "devpi_web": {"plugin"},
    "pluggy": {"plugin"},
}
# What each edge may know of the package besides the core; edges do not know each other.
EDGES = {
    "clock": set(),
    "advice": set(),
    "owners": set(),
    "denied": {"advice", "owners"},
    "durable": {"denied", "owners"},
    "stop": set(),
    "heads": set(),
    "origin": {"heads", "plain", "tls"},
    "plain": set(),
    "primary": {"origin"},
    "filestore.disk": {"durable", "filestore.sync", "owners"},
    "filestore.sync": {"durable"},
    "filestore.takeover": {"durable"},
    "filestore.lister": set(),
    "filestore.hashing": set(),
    "filestore.survey": {"durable", "filestore.hashing", "filestore.lister"},
    "prefetch": set(),
    "seed.local": {"durable"},
    "storage": set(),
    "serverdir": {"durable", "owners", "storage"},
    "secretfiles": {"advice", "durable"},
    "tls": {"secretfiles"},
    "store.tables": set(),
    "store.records": set(),
    "store.schema": {"store.tables"},
    "store.ledger": {"store", "store.records", "store.tables"},
    "store.undo": {"store", "store.database", "store.ledger", "store.tables"},
    "store.ageing": {"store", "store.tables", "clock"},
    "store.database": {"store", "store.schema", "store.tables", "store.records"},
    "store.history": {"store", "store.database", "store.tables", "store.undo"},
    "store.moves": {
        "store",
        "store.ageing",
        "store.database",
        "store.history",
        "store.records",
        "store.tables",
        "clock",
    },
    "store.files": {
        "store",
        "store.database",
        "store.history",
        "store.ledger",
        "store.records",
        "store.tables",
    },
    "store.provenance": {"store", "store.history", "store.records", "store.schema", "store.tables"},
    "store.base": {
        "store",
        "store.database",
        "store.files",
        "store.mending",
        "store.moves",
        "store.provenance",
        "store.records",
        "store.tables",
        "store.undo",
    },
    "store.mending": {"store", "store.records", "store.tables"},
    "store.audit": {
        "store",
        "store.base",
        "store.database",
        "store.ledger",
        "store.records",
        "store.tables",
    },
    "store.scratch": {"store.temporary"},
    "store.temporary": set(),
    "store.sqlite": {"denied", "store.base", "store.database", "store.records", "store.tables"},
    "fetch": set(),
    "progress": set(),
    "logs": set(),
}


def modules() -> dict[str, ast.Module]:
    """Return the parsed modules of the package by name, without the package's own name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "migrations" not in parts:
            found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


@cache
def imported(tree: ast.Module) -> tuple[str, ...]:
    """Return the full names that a module imports anywhere, but for what only the type checker sees."""
    return tuple(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who is meant"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("replisync.") in MODULES else str(node.module)


def inside(name: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {
        full.removeprefix("replisync").lstrip(".")
        for full in imported(MODULES[name])
        if full.split(".")[0] == "replisync"
    }


def outside(name: str) -> set[str]:
    """Return the libraries that a module imports."""
    return {full.split(".")[0] for full in imported(MODULES[name])} - {"replisync"}


def belongs(name: str, homes: set[str]) -> bool:
    """Tell whether a module is one of some, or inside one of them."""
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def test_the_modules_that_the_rules_speak_of_exist() -> None:
    assert set(MODULES) >= CORE | set(EDGES) | {"pipeline", "loop", "cli.app", "__main__"}


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_knows_the_core_alone_and_no_library_that_does_io(name: str) -> None:
    assert inside(name) <= CORE
    assert outside(name) <= HARMLESS


def test_errors_imports_nothing_of_the_package() -> None:
    assert inside("errors") == set()
    assert outside("errors") <= {"typing"}


@pytest.mark.parametrize("name", sorted(EDGES))
def test_an_edge_knows_the_core_and_its_own_parts_alone(name: str) -> None:
    assert inside(name) - CORE <= EDGES[name] | {""}


@pytest.mark.parametrize("library", sorted(HOMES))
def test_a_library_is_known_in_one_place_alone(library: str) -> None:
    users = {name for name in MODULES if library in outside(name)}
    assert {name for name in users if not belongs(name, HOMES[library])} == set()


@pytest.mark.parametrize("name", ["pipeline", "wanted", "refusals", "loop", "fetch", "settle"])
def test_the_loop_opens_no_file_socket_or_database_itself(name: str) -> None:
    assert not outside(name) & {
        "os",
        "pathlib",
        "shutil",
        "socket",
        "ssl",
        "http",
        "urllib",
        "subprocess",
        "io",
    }


def test_only_the_command_line_knows_the_command_line() -> None:
    users = {name for name in MODULES if any(belongs(other, {"cli"}) for other in inside(name))}
    assert {name for name in users if not belongs(name, {"cli", "__main__"})} == set()


def test_nobody_imports_the_plugin_and_it_imports_nothing_of_ours() -> None:
    assert {name for name in MODULES if "plugin" in inside(name)} == set()
    assert inside("plugin") == set()


def test_data_flows_one_way() -> None:
    """No module is imported by one that it imports itself, however far round."""
    graph = {name: inside(name) - {name} for name in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as err:
        raise AssertionError(f"imports in a circle: {' -> '.join(err.args[1])}") from err
    assert order.index("wire") < order.index("changelog") < order.index("plan") < order.index("pipeline")
