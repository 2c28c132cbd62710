"""What is written from the code is up to date, and every command says what it must."""

from __future__ import annotations

import difflib
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = spec_from_file_location("reference", ROOT / "packaging" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "configuration.md", "errors.md", "approvals.md"])
def test_the_reference_is_what_the_code_says(reference: ModuleType, page: str) -> None:
    """A help text, a key, a default or an error that changes shows here; `make reference` writes it anew."""
    written, now = (reference.PLACE / page).read_text(), reference.pages()[page]
    difference = "\n".join(
        difflib.unified_diff(written.splitlines(), now.splitlines(), "docs", "code", lineterm="", n=1)
    )
    assert not difference, f"run `make reference`:\n{difference[:4000]}"


def test_every_command_has_help_with_examples(reference: ModuleType) -> None:
    for program, command in (("holdfast", reference.root), ("holdfast-agent", reference.agent_root)):
        for path, text in reference.help_texts(program, command):
            if "\nCommands:\n" in text:
                continue
            examples = re.split(r"^ *Examples:$", text, flags=re.MULTILINE)[-1]
            assert re.search(rf"^ +{path}\b", examples, re.MULTILINE), f"{path} has no example"
            first = text.split("\n\n")[1].strip()
            assert len(first) > 10, f"{path} does not say what it does"


def test_every_error_says_what_to_do_or_why_it_need_not(reference: ModuleType) -> None:
    silent = {
        code for code, kind in reference._classes_by_code.items()
        if not kind.action and kind.__module__.startswith(("holdfast_agent", "holdfast_manager"))
    }  # fmt: skip
    # Their reason is all there is to say; the place that raises them words it.
    assert silent == {"cancelled", "change_tracking_lost", "denied", "remote_error", "usage"}


def test_stale_pages_are_told(reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PLACE", tmp_path / "reference")
    monkeypatch.setattr(sys, "argv", ["reference.py", "--check"])
    with pytest.raises(SystemExit, match=r"stale: commands\.md, configuration\.md, errors\.md, approvals\.md"):
        reference.main()
    monkeypatch.setattr(sys, "argv", ["reference.py"])
    reference.main()
    monkeypatch.setattr(sys, "argv", ["reference.py", "--check"])
    with pytest.raises(SystemExit) as caught:
        reference.main()
    assert caught.value.code == 0
