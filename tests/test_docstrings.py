"""Every example in a docstring runs."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


def examples() -> Iterator[tuple[str, str]]:
    """The Python blocks of all docstrings, each with the name of what it belongs to."""
    for path in sorted((ROOT / "vtune").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                name = f"{path.stem}.{getattr(node, 'name', 'module')}"
                for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
                    yield name, textwrap.dedent(block)


EXAMPLES = list(examples())


@pytest.mark.parametrize(
    ("name", "source"), EXAMPLES, ids=[name for name, _ in EXAMPLES]
)
def test_the_example_of(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, name, "exec"), {"__name__": "example"})


def test_what_users_meet_first_has_an_example():
    with_examples = {name.split(".")[-1] for name, _ in EXAMPLES}
    assert {"Model", "Hyperband", "HyperParameters", "HyperModel"} <= with_examples
    assert {"Objective", "History"} <= with_examples
