"""``python -m tests.openapi`` makes ``txtransfers/web/openapi.json`` of ``docs/openapi.yaml``."""

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "docs" / "openapi.yaml"
PACKAGED = ROOT / "txtransfers" / "web" / "openapi.json"


def source() -> Any:
    """The description, as people write it."""
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


def packaged_text() -> str:
    """What is to be packaged."""
    return json.dumps(source(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PACKAGED.write_text(packaged_text(), encoding="utf-8")
