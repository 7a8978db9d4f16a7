"""The layout: who imports whom, and how large things may be."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from project.tests.service import ROOT

PROJECT = ROOT / "project"
FILE_LINES = 400
FUNCTION_LINES = 70
MEDIAN_FUNCTION_LINES = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    return [file for folder in (PROJECT, ROOT / "migrations", ROOT / ".ci") for file in folder.rglob("*.py")]


def functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function))


def size(function: Function) -> int:
    """Lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_imports_point_one_way_without_a_circle() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_no_import_hides_in_a_function() -> None:
    hidden = [
        f"{file}:{node.lineno}"
        for file in files()
        for function in functions(file)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_no_file_is_too_long() -> None:
    assert [file for file in files() if len(file.read_text().splitlines()) > FILE_LINES] == []


def test_no_function_is_too_long_and_the_median_is_short() -> None:
    sizes = {f"{file}:{function.name}": size(function) for file in files() for function in functions(file)}
    rows_of_tables = {name for name in sizes if name.endswith(":upgrade")}
    assert [name for name, lines in sizes.items() if lines > FUNCTION_LINES and name not in rows_of_tables] == []
    assert statistics.median(sizes.values()) <= MEDIAN_FUNCTION_LINES


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        file for file in files() if file.read_text().strip() and not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert silent == []
