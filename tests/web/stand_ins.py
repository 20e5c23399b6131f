"""Stand-ins for the four instances of the recordings: same identifiers and sizes, other bytes."""

import re
from urllib.parse import parse_qs, unquote, urlsplit

from tests.web.harness import make_dicom, md5, put_stand_in
from txtransfers.store.memory import MemoryStore
from txtransfers.wire.identifiers import ResourceIdentifiers

PATIENT = "59a34b12-f49af43f-00094f15-6df55aa0-c6b5711c"
STUDY = "9c716a0a-9200494e-5fefce43-30dca092-0da6fb1e"
SERIES = "aa89b6ea-fd545bc3-b44a352e-6ec3a124-d3bdbce4"
FIRST = "065f961a-22ec4d9b-dddec867-3d038a52-a026fe34"
SECOND = "4beafaac-295e3132-baa9491f-a07f013c-b2659b4c"
THIRD = "7888773d-4a68c95b-fb49dd83-fa469994-c83c082a"
LARGE = "58bbc3fc-f506c2ee-bec4853b-c4e424b5-5dc000a4"
"""In another study, of a patient that the recordings do not name."""

_ELSEWHERE = "11111111-11111111-11111111-11111111-11111111"

FILES = {
    FIRST: make_dicom(33838, "1.2.3.1"),
    SECOND: make_dicom(33838, "1.2.3.2"),
    THIRD: make_dicom(33838, "1.2.3.3"),
    LARGE: make_dicom(321054, "1.2.3.4", study="1.2.9", series="1.2.9.1"),
}
"""The stand-ins, by the identifier in the recordings."""

_MD5S = {
    "8cca7d24ebbd582da6a872ccb8d89175": md5(FILES[FIRST]),
    "2111b26b3e4fde36e7f9065ebdfa1c29": md5(FILES[SECOND]),
    "48c8bba4d2a99b45666ec38c0cf447d0": md5(FILES[THIRD]),
    "0763559a740080397eed36ef1a03b407": md5(FILES[LARGE]),
}
_MD5S |= {recorded.upper(): ours.upper() for recorded, ours in _MD5S.items()}


def recorded_store() -> MemoryStore:
    """A store that holds what the recording peer held."""
    store = MemoryStore()
    for id_, data in FILES.items():
        ids = ResourceIdentifiers(PATIENT, STUDY, SERIES, id_)
        if id_ == LARGE:
            ids = ResourceIdentifiers(_ELSEWHERE, _ELSEWHERE, _ELSEWHERE, id_)
        put_stand_in(store, data, ids)
    return store


def with_our_md5s(text: bytes) -> bytes:
    """``text`` with the MD5s of the recorded instances replaced by those of the stand-ins."""
    pattern = "|".join(_MD5S)
    return re.sub(pattern, lambda found: _MD5S[found[0]], text.decode()).encode()


def bytes_asked_for(target: str) -> bytes:
    """What a ``chunks`` URL asks for, of the stand-ins, before compression; the slow way."""
    parts = urlsplit(target)
    arguments = {name.lower(): values for name, values in parse_qs(parts.query).items()}
    ids = unquote(parts.path).rsplit("/", 1)[1].split(".")
    data = b"".join(FILES.get(id_, b"") for id_ in ids)
    offset = int(arguments.get("offset", ["0"])[0])
    size = int(arguments.get("size", ["0"])[0])
    return data[offset : offset + size] if size else data[offset:]
