"""The rooms of the house: imports go one way, the reactor has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import txtransfers

PACKAGE = Path(txtransfers.__file__).parent
ORDER = (
    {"errors"},
    {"wire"},
    {
        *("audit", "config", "config_access", "config_bandwidth", "config_foreign", "config_keys"),
        "config_limits",
        "metrics",
        "open_files",
        *("config_peers", "config_tls", "passwords", "reloading", "tls"),
        *(
            "config_store",
            "config_text",
            "config_values",
            "config_webhooks",
            "disk",
            "journal_log",
            "migrations",
            "sqlite",
            "systemd",
            "threads",
            "timetable",
            "waiters",
        ),
    },
    {"store"},
    {"transfer"},
    {"orthanc"},
    {"client"},
    {"jobs"},
    {"web"},
    {"daemon"},
    {"service"},
    {"command"},
    {"cli"},
)
"""From the ground up: a room imports from its own and from lower ones."""

FLOOR = {name: number for number, names in enumerate(ORDER) for name in names}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if name != "__init__":
            yield name, path


def imports(source: str, name: str) -> Iterator[str]:
    """The rooms from which the module of that name imports at run time."""
    here = ["txtransfers", *name.split("/")[:-1]]
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        for full in imported(node, here):
            package, *rest = full.split(".")
            if package == "txtransfers" and rest and rest[0] in FLOOR:
                yield rest[0]


def imported(node: ast.AST, here: list[str]) -> Iterator[str]:
    """The full names, dotted, that a node imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = here[: len(here) - node.level + 1] if node.level else []
        parts = [*base, *(node.module or "").split(".")]
        yield from (".".join(filter(None, [*parts, alias.name])) for alias in node.names)


def calls_print(source: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(ast.parse(source))
    )


def takes_the_reactor(source: str, name: str) -> bool:
    here = ["txtransfers", *name.split("/")[:-1]]
    nodes = ast.walk(ast.parse(source))
    names = {full for node in nodes for full in imported(node, here)}
    return "twisted.internet.reactor" in names


class RoomTests(SynchronousTestCase):
    def test_every_module_is_in_a_room(self) -> None:
        for name, _path in modules():
            self.assertIn(name.split("/")[0], FLOOR)

    def test_imports_go_down(self) -> None:
        for name, path in modules():
            floor = FLOOR[name.split("/")[0]]
            for room in imports(path.read_text(), name):
                self.assertLessEqual(FLOOR[room], floor, f"{name} imports from {room}")

    def test_every_way_to_import_is_seen(self) -> None:
        for source, name, rooms in (
            ("from . import errors", "service", ["errors"]),
            ("from .. import errors, threads as t", "web/site", ["errors", "threads"]),
            ("from ..store.memory import MemoryStore", "web/site", ["store"]),
            ("from .store import memory", "service", ["store"]),
            ("from .plan import Chunk", "wire/messages", ["wire"]),
            ("from txtransfers.config_keys import Key", "config", ["config_keys"]),
            ("import txtransfers.web.site", "wire/plan", ["web"]),
            ("def late():\n    from txtransfers import service", "errors", ["service"]),
            ("if TYPE_CHECKING:\n    from ..web import site", "wire/plan", []),
            ("import json\nfrom twisted.web import server", "wire/plan", []),
            ("from . import __version__", "cli", []),
        ):
            self.assertEqual(list(imports(source, name)), rooms, source)

    def test_the_reactor_has_one_door(self) -> None:
        for source in (
            "from twisted.internet import defer, reactor",
            "def f():\n    import twisted.internet.reactor",
        ):
            self.assertTrue(takes_the_reactor(source, "web/site"))
        doors = [name for name, path in modules() if takes_the_reactor(path.read_text(), name)]
        self.assertEqual(doors, ["service"])

    def test_only_a_command_prints(self) -> None:
        self.assertTrue(calls_print("def f():\n    print('x')"))
        printing = {name for name, path in modules() if calls_print(path.read_text())}
        self.assertLessEqual(printing, {"cli", "service"})

    def test_twisted_is_not_hidden(self) -> None:
        plugins = PACKAGE.parent / "twisted"
        self.assertTrue((plugins / "plugins" / "txtransfers_plugin.py").exists())
        self.assertEqual(list(plugins.rglob("__init__.py")), [])
