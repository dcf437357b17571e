"""The shape of the code: what may import what, and the rules of the tree.

Everything here reads syntax trees; nothing is imported or run.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vtune"

# From the bottom up: a layer sees those below it, never one beside it. A module whose
# name is not here is a new layer and has to be given its place.
LEVELS = (
    {"trial", "failure", "interruption", "interpreter", "components"},
    {"parameters", "history", "callbacks", "foresight"},
    {"hyperparameters"},
    {"search", "reporting", "fusion", "storage"},
    {"proposal", "training", "observer"},
    {"fitting", "journal", "past", "points"},
    {"model"},
    {"hypermodel", "intake", "shrinking"},
    {"sharing", "configuration", "resumption", "upcoming"},
    {"ledger", "persistence", "stored"},
    {"epochs", "kept"},
    {"study"},
    {"preparation"},
    {"tuner"},
    {"tuners"},
    {"vtune"},
)
LEVEL = {layer: level for level, layers in enumerate(LEVELS) for layer in layers}

# These see no more than they are told by their arguments.
SPACE = {"trial", "parameters", "hyperparameters"}
SEES_ONLY: dict[str, set[str]] = {
    "components": set(),
    "search": SPACE,
    "reporting": SPACE,
    "fusion": {"trial"},
    "storage": {"trial", "parameters"},
    "training": {"trial", "fusion"},
}

# What a layer does not touch of the world outside.
FORBIDDEN = {
    "trial": {"jax", "flax", "optax", "rich"},
    "hyperparameters": {"jax", "flax", "optax", "rich"},
    "search": {"jax", "flax", "optax", "rich", "os", "io", "pathlib", "time"},
    "reporting": {"jax", "flax", "optax"},
    "fusion": {"rich", "io", "time", "random"},
    "training": {"rich"},
    "storage": {"flax", "optax", "rich"},
}

INTERNALS = "vtune.fusion.internals"
JAX = {"jax", "jaxlib", "flax", "optax"}
NOT_PUBLIC = {"jaxlib", "jax.interpreters", "jax.lib"}
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MEANINGLESS = {
    "base",
    "common",
    "core",
    "engine",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "shared",
    "util",
    "utilities",
    "utils",
}
EXCEPTIONS = {"BaseException", "Exception", "ValueError", "TypeError", "RuntimeError"}


@dataclasses.dataclass(frozen=True)
class Module:
    """A module's name, text and syntax tree."""

    name: str
    path: Path
    text: str = dataclasses.field(repr=False)
    tree: ast.Module = dataclasses.field(repr=False)

    @property
    def layer(self) -> str:
        """The first name below `vtune`, or `vtune` itself."""
        return (self.name.split(".") + ["vtune"])[1] if "." in self.name else "vtune"


def read(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    text = path.read_text(encoding="utf-8")
    return Module(".".join(parts), path, text, ast.parse(text))


MODULES = {m.name: m for m in map(read, sorted(PACKAGE.rglob("*.py")))}

every_module = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each dotted name that is imported anywhere, and its line.

    `from a import b` gives `a.b`, since `b` may be a module; a relative import keeps
    its dots.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((f"{origin}.{a.name}", node.lineno) for a in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imported_modules(module: Module) -> set[str]:
    """The modules of vtune that a module imports."""
    found = set()
    for name, _ in imports(module.tree):
        while within(name, "vtune") and name not in MODULES:
            name = name.rpartition(".")[0]
        if name in MODULES:
            found.add(name)
    return found - {module.name}


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (origin := dotted(node.value)):
        return f"{origin}.{node.attr}"
    return ""


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a module stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def uses(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each imported or qualified name that is used, in full, and its line."""
    yield from imports(tree)
    known = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            first, _, rest = name.partition(".")
            if first in known:
                yield f"{known[first]}.{rest}", node.lineno


def not_public(name: str) -> bool:
    first, *rest = name.split(".")
    return first in JAX and (
        any(within(name, module) for module in NOT_PUBLIC)
        or any(part.startswith("_") and not part.endswith("__") for part in rest)
    )


@every_module
def test_imports_go_down_only(module: Module):
    layer = module.layer
    assert layer in LEVEL, f"give {module.name} a place in LEVELS"
    for name in imported_modules(module):
        seen = MODULES[name].layer
        assert seen == layer or LEVEL.get(seen, 99) < LEVEL[layer], name
        assert seen == layer or seen in SEES_ONLY.get(layer, {seen}), name


@every_module
def test_imports_are_absolute_and_annotations_are_evaluated(module: Module):
    for name, line in imports(module.tree):
        assert not name.startswith("."), f"relative import in line {line}"
        assert not within(name, "__future__"), f"{name} in line {line}"


def test_no_modules_import_each_other_in_a_circle():
    waiting = {name: imported_modules(module) for name, module in MODULES.items()}
    # Importing `vtune.a.b` from anywhere also means its packages, which hold no code.
    packages = {n for n, m in MODULES.items() if m.path.name == "__init__.py"}
    waiting = {name: found - packages for name, found in waiting.items()}
    while free := {name for name, found in waiting.items() if not found}:
        waiting = {n: found - free for n, found in waiting.items() if n not in free}
    assert not waiting, f"in a circle, or above one: {sorted(waiting)}"


@every_module
def test_only_the_top_exports(module: Module):
    if module.path.name == "__init__.py" and module.name != "vtune":
        assert [type(node) for node in module.tree.body] == [ast.Expr]
    elif module.name != "vtune":
        assert not any(name == "vtune" for name, _ in imports(module.tree))


@every_module
def test_a_layer_leaves_the_world_outside_alone(module: Module):
    for name, line in imports(module.tree):
        outside = name.partition(".")[0]
        forbidden = FORBIDDEN.get(module.layer, set())
        assert outside not in forbidden, f"{name} in line {line}"


@every_module
def test_only_one_module_touches_the_internals_of_jax(module: Module):
    if module.name != INTERNALS:
        found = [
            f"{n} in line {line}" for n, line in uses(module.tree) if not_public(n)
        ]
        assert not found


@every_module
def test_nothing_is_ever_unpickled(module: Module):
    for name, line in imports(module.tree):
        assert not any(within(name, unsafe) for unsafe in UNSAFE), f"line {line}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


@every_module
def test_modules_are_short_and_their_names_mean_something(module: Module):
    lines, longest = module.text.count("\n"), 400 if module.layer == "fusion" else 300
    assert lines <= longest
    assert not set(module.name.split(".")) & MEANINGLESS


@every_module
def test_functions_are_short(module: Module):
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            first = node.body[1 if documented and len(node.body) > 1 else 0]
            length = (node.body[-1].end_lineno or 0) - first.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Each public function, class and method of a module."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_") or is_setter(node):
                continue
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


@functools.cache
def explained() -> set[str]:
    """The methods that a Protocol documents, for all who implement it."""
    return {
        name.rpartition(".")[2]
        for module in MODULES.values()
        for node in module.tree.body
        if isinstance(node, ast.ClassDef)
        and any(dotted(base).endswith("Protocol") for base in node.bases)
        for name, method in public(node.body, node.name)
        if ast.get_docstring(method)  # pyright: ignore[reportArgumentType]
    }


def is_setter(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    names = {dotted(d).rpartition(".")[2] for d in decorators}
    return bool(names & {"setter", "deleter", "overload"})


@every_module
def test_every_public_name_has_a_docstring(module: Module):
    assert ast.get_docstring(module.tree) or not module.tree.body
    assert not [
        name
        for name, node in public(module.tree.body, module.name)
        if not ast.get_docstring(node)  # pyright: ignore[reportArgumentType]
        and name.rpartition(".")[2] not in explained()
    ]


@functools.cache
def parents_of_classes() -> dict[str, set[str]]:
    return {
        node.name: {dotted(base).rpartition(".")[2] for base in node.bases}
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }


@every_module
def test_classes_are_protocols_or_final(module: Module):
    own = parents_of_classes()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                parents = own.get(dotted(base).rpartition(".")[2])
                assert parents is None or parents & ({"Protocol"} | EXCEPTIONS), (
                    f"{node.name} extends {dotted(base)}"
                )
        elif isinstance(node, ast.Call):
            assert dotted(node.func) != "super", f"line {node.lineno}"


def test_the_rules_notice_what_they_forbid():
    tree = ast.parse(
        "import jax, jax.numpy as jnp, pickle\n"
        "from jax import _src\n"
        "from jax._src import core\n"
        "from flax import linen as nn\n"
        "jax._src.core\njnp._secret\njax.interpreters.ad\nnn.Module.__call__\njnp.sum\n"
    )
    found = {name for name, _ in uses(tree) if not_public(name)}
    assert found == {
        "jax._src",
        "jax._src.core",
        "jax.numpy._secret",
        "jax.interpreters",
        "jax.interpreters.ad",
    }
    assert any(within(name, "pickle") for name, _ in imports(tree))
