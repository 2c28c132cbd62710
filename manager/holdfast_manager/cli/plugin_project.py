"""What `holdfast plugin new` writes: a project made of the templates that come with the testkit."""

from __future__ import annotations

import keyword
import re
import sys
from importlib import resources
from pathlib import Path

from holdfast_agent.errors import AlreadyExists, UsageError

KINDS = {
    "hypervisor": "hypervisor",
    "guest-processor": "guest processor",
    "change-tracker": "change tracker",
    "notifier": "notifier",
}
"""As the option says it, and as people do."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 50


def make_project(name: str, kind: str, place: Path) -> list[str]:
    """Write the project of a plugin to ``place``, which is made; returns its files.

    Raises ``UsageError`` for a name that cannot be a plugin's or a module's, or ``AlreadyExists``.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(reason="a plugin's name is made of lower-case letters, digits and single '-'")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module.startswith("holdfast"):
        raise UsageError(reason=f"{module} is a module already; choose another name")
    words = {
        "name": name,
        "module": module,
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "kind": KINDS[kind],
    }
    files = {
        "pyproject.toml": _rendered("pyproject.toml.txt", words),
        "README.md": _rendered("README.md.txt", words),
        f"{module}.py": _rendered(f"{kind}/plugin.py.txt", words),
        f"tests/test_{module}.py": _rendered(f"{kind}/test.py.txt", words),
    }
    try:
        place.mkdir(parents=True)
        for file, text in files.items():
            path = place / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except FileExistsError:
        raise AlreadyExists(kind="directory", name=str(place)) from None
    except OSError as error:
        raise UsageError(reason=f"{place} cannot be written: {error.strerror}") from error
    return list(files)


def _rendered(template: str, words: dict[str, str]) -> str:
    text = resources.files("holdfast_plugins").joinpath("testkit", "templates", template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
