"""The repository's own text, as the rules read it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# package: where it lies
SERVICES = {
    "payment_callback": ROOT / "services/payment-callback/payment_callback",
    "order_core": ROOT / "services/order-core/order_core",
    "logistics_poller": ROOT / "services/logistics-poller/logistics_poller",
    "settlement": ROOT / "services/settlement/settlement",
}
SHARED = ROOT / "shared/orderloop"
LAB = ROOT / "deploy/lab/orderloop_lab"
# database: the package that owns it
DATABASES = {
    "payment_callback": "payment_callback",
    "order_core": "order_core",
    "logistics": "logistics_poller",
    "settlement": "settlement",
}


def python(*folders: Path) -> list[Path]:
    return _files("*.py", folders)


def sql(*folders: Path) -> list[Path]:
    return _files("*.sql", folders)


def migrations(package: str) -> str:
    """All of a package's migrations, in order."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sql(SERVICES[package] / "migrations"))


def _files(pattern: str, folders: tuple[Path, ...]) -> list[Path]:
    found = [path for folder in folders for path in sorted(folder.rglob(pattern))]
    assert found, f"no {pattern} below {folders}: the rule would hold of nothing"
    return found


def calls(text: str, *names: str) -> Iterator[ast.Call]:
    """Calls of a function or class by its last name, however it was imported."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _last_name(node.func) in names:
            yield node


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((given.value for given in call.keywords if given.arg == name), None)


def imported(text: str, package: str) -> set[str]:
    """Modules that `text`, a module of `package`, imports; relative ones by their full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=module, level=0) if module:
                found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.ImportFrom(module=module):
                found.add(f"{package}.{module}" if module else package)
            case _:
                pass
    return found


def writes(text: str, table: str) -> bool:
    """Whether a statement in `text` changes rows of `table`."""
    verbs = r"(insert\s+into|update(\s+only)?|delete\s+from(\s+only)?|truncate(\s+table)?|merge\s+into|copy)"
    return re.search(rf'\b{verbs}\s+(public\.)?"?{table}"?\b', without_comments(text), re.IGNORECASE) is not None


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
