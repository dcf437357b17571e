"""Every snippet of the README runs, in order, as a reader would type them."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets() -> list[tuple[int, str]]:
    """The Python snippets of the README, each with the line that it begins in."""
    blocks = re.finditer(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [(README.count("\n", 0, b.start(1)) + 1, b[1]) for b in blocks]


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    found = snippets()
    assert len(found) >= 8
    for line, source in found:
        # Empty lines in front: a traceback shows the lines of the README.
        code = compile("\n" * (line - 1) + source, str(ROOT / "README.md"), "exec")
        exec(code, namespace)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(set(re.findall(r"[\w/]+\.py\b", README))))
def test_every_script_that_is_named_exists(path):
    assert (ROOT / path).exists() or (ROOT / "experiments" / path).exists()


def test_every_extra_that_is_named_exists():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r'pip install -e "\.\[(\w+)\]"', README))
    assert named == set(project["optional-dependencies"])
