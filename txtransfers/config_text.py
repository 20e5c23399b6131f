"""The text of a configuration file -> one JSON object. Used by ``config.py`` alone; pure.

Comments go first, so that a variable in a comment need not be set; then variables are replaced,
then JSON is read. An error's line and column are those of the file, not of the replaced text.
"""

import json
import re
from collections.abc import Mapping

import attrs

from txtransfers.errors import ConfigurationError
from txtransfers.wire.relaxed_json import strip

_VARIABLE = re.compile(r"\$\{([^}\n]*)\}")
_WITH_DEFAULT = ":-"


@attrs.frozen
class _Piece:
    """A piece of the replaced text: ``start`` there, ``origin`` in the file.

    :ivar variable: its name, where the piece is what replaced one; else empty.
    """

    start: int
    origin: int
    text: str
    variable: str


def read(text: str, source: str, environment: Mapping[str, str]) -> dict[str, object]:
    """Read the JSON object in ``text``.

    :raises ConfigurationError: a variable is not set, or this is no JSON object; with its line.
    """
    pieces = _replaced(strip(text), source, environment)
    replaced = "".join(piece.text for piece in pieces)
    try:
        found = json.loads(strip(replaced), object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigurationError(_syntax_error(text, source, pieces, error)) from None
    except RecursionError:
        raise ConfigurationError(f"{source}: is nested too deeply; check its brackets") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{source}: expected an object {{ }} that holds the keys")
    return found


def _replaced(text: str, source: str, environment: Mapping[str, str]) -> list[_Piece]:
    pieces: list[_Piece] = []
    missing: list[str] = []
    start = end = 0
    for match in _VARIABLE.finditer(text):
        name, with_default, value = match[1].partition(_WITH_DEFAULT)
        if name not in environment and not with_default:
            line, column = _place(text, match.start())
            missing.append(
                f"{source}: line {line}, column {column}: the environment variable {name!r} is not "
                f"set; set it, or give a default: ${{{name}:-default}}"
            )
        literal = text[end : match.start()]
        pieces.append(_Piece(start, end, literal, ""))
        start += len(literal)
        pieces.append(_Piece(start, match.start(), environment.get(name, value), name))
        start += len(pieces[-1].text)
        end = match.end()
    if missing:
        raise ConfigurationError("\n".join(missing))
    return [*pieces, _Piece(start, end, text[end:], "")]


def _syntax_error(text: str, source: str, pieces: list[_Piece], error: json.JSONDecodeError) -> str:
    piece = [piece for piece in pieces if piece.start <= error.pos][-1]
    within = 0 if piece.variable else error.pos - piece.start
    line, column = _place(text, piece.origin + within)
    hint = (
        f"; the value of ${{{piece.variable}}} is put there as it is: escape quotes and backslashes"
        if piece.variable
        else ""
    )
    return f"{source}: line {line}, column {column}: not JSON: {error.msg}{hint}"


def _place(text: str, position: int) -> tuple[int, int]:
    """Line and column, both counted from 1."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{json.dumps(name)} stands twice in the same object; remove one")
        found[name] = value
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON; write a number")
