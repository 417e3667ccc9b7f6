"""A stub says of a compiled module only what is there: mypy believes it, so this test reads both."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STUBS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "balancer").rglob("*.pyi"))


def statements(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """(name, statement) of what a stub says; a leading underscore marks names of the stub's own."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, statement
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                yield name, statement
            case ast.AnnAssign() | ast.ImportFrom() | ast.Import() | ast.Expr():
                pass
            case _:
                raise AssertionError(f"line {statement.lineno}: not understood by this test")


def parameters(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """(name, has a default) of each parameter."""
    arguments = function.args
    names = [argument.arg for argument in arguments.args]
    required = len(names) - len(arguments.defaults)
    found = [(name, index >= required) for index, name in enumerate(names)]
    return [*found, (arguments.vararg.arg, False)] if arguments.vararg else found


def compare(path: str, said: ast.stmt, real: Any) -> None:
    match said:
        case ast.ClassDef(bases=bases, body=body):
            told = {base.id for base in bases if isinstance(base, ast.Name)} - {"NamedTuple"}
            assert told <= {base.__name__ for base in real.__mro__}, f"{path}: bases {told}"
            for name, statement in statements(body):
                if "NamedTuple" in {base.id for base in bases if isinstance(base, ast.Name)} and not isinstance(
                        statement, ast.FunctionDef):
                    assert name in real._fields, f"{path}.{name}: no such field"
                else:
                    assert hasattr(real, name), f"{path}.{name}: not in the compiled class"
                    compare(f"{path}.{name}", statement, getattr(real, name))
        case ast.FunctionDef(decorator_list=[ast.Name(id="property")]):
            assert inspect.isdatadescriptor(real), f"{path}: not a property"
        case ast.FunctionDef(name=name):
            assert callable(real), f"{path}: not a function"
            if not name.startswith("__"):       # a constructor compiled to C tells no signature
                signature = inspect.signature(real).parameters.values()
                found = [(one.name, one.default is not one.empty) for one in signature]
                assert found == parameters(said), f"{path}: {found}"


@pytest.mark.parametrize("stub", STUBS)
def test_the_compiled_module_has_every_name_of_its_stub(stub: str) -> None:
    assert (ROOT / stub).with_suffix(".pyx").exists(), "a stub of nothing"
    module = import_module(stub.removesuffix(".pyi").replace("/", "."))
    for name, statement in statements(ast.parse((ROOT / stub).read_text()).body):
        assert hasattr(module, name), f"{name}: not in the compiled module"
        compare(f"{module.__name__}.{name}", statement, getattr(module, name))


def test_stubs_are_found() -> None:
    assert "balancer/table/table.pyi" in STUBS
