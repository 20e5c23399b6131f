"""JSON as Orthanc's parser takes it -> strict JSON, in which every character keeps its place.

Comments and superfluous commas become spaces, so a line and column in an error of the strict
parser are those of the original text. Called for the configuration; pure, in linear time.
"""

import re

_STRING = r'"(?:[^"\\]++|\\.)*+"?'
"""A string, or the start of one that never ends; possessive, so that it is never tried twice."""

_COMMENTS = re.compile(_STRING + r"|//[^\r\n]*+|/\*.*?(?:\*/|\Z)", re.DOTALL)
_COMMAS = re.compile(_STRING + r"|[\[{,]\s*+,|,(?=\s*+[\]}])", re.DOTALL)
"""The middle one is a comma with no value before it: an error, which stays for the parser."""

_VISIBLE = re.compile(r"[^\r\n]")
_BYTE_ORDER_MARK = "\ufeff"


def strip(text: str) -> str:
    """Turn a byte order mark, comments and trailing commas into spaces; strings are untouched.

    What is wrong in other ways stays as it is, such as a comment that never ends: the strict
    parser then complains at the right place.
    """
    if text.startswith(_BYTE_ORDER_MARK):
        text = " " + text[1:]
    return _COMMAS.sub(_without_comma, _COMMENTS.sub(_without_comment, text))


def _without_comment(match: re.Match[str]) -> str:
    found = match[0]
    closed = found.startswith("//") or (found.startswith("/*") and found.endswith("*/"))
    if not closed or found == "/*/":
        return found
    return _VISIBLE.sub(" ", found)


def _without_comma(match: re.Match[str]) -> str:
    return " " if match[0] == "," else match[0]
