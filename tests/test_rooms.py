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
        *("config", "config_foreign", "config_keys", "config_peers", "config_text"),
        *("config_values", "sqlite", "threads"),
    },
    {"store"},
    {"transfer"},
    {"jobs"},
    {"web"},
    {"service"},
    {"cli"},
)
"""From the ground up: a room imports from its own and from lower ones."""

FLOOR = {name: number for number, names in enumerate(ORDER) for name in names}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if name != "__init__":
            yield name, path


def imports(path: Path, name: str) -> Iterator[str]:
    """The rooms from which a module imports at run time."""
    here = name.split("/")[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = here[: len(here) - node.level + 1]
        full = [*base, *(node.module or "").split(".")]
        room = next((part for part in full if part), None)
        if room is not None:
            yield room
        else:
            yield from (alias.name for alias in node.names if alias.name in FLOOR)


class RoomTests(SynchronousTestCase):
    def test_every_module_is_in_a_room(self) -> None:
        for name, _path in modules():
            self.assertIn(name.split("/")[0], FLOOR)

    def test_imports_go_down(self) -> None:
        for name, path in modules():
            floor = FLOOR[name.split("/")[0]]
            for room in imports(path, name):
                self.assertLessEqual(FLOOR[room], floor, f"{name} imports from {room}")

    def test_the_reactor_has_one_door(self) -> None:
        doors = [
            name
            for name, path in modules()
            if "from twisted.internet import reactor" in path.read_text()
        ]
        self.assertEqual(doors, ["service"])

    def test_twisted_is_not_hidden(self) -> None:
        plugins = PACKAGE.parent / "twisted"
        self.assertEqual(list(plugins.rglob("__init__.py")), [])
