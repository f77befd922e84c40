"""Pages that people rely on are complete: settings, anomalies, problems, runbooks, links."""

import ast
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from docs import generate
from logistics_poller.schedule import Finding
from order_core.commands import REASONS
from orderloop import asyncapi
from tests.rules.source import LAB, ROOT, SERVICES, SHARED, calls, keyword, python

KIND = re.compile(r"[a-z]+(_[a-z]+)+")
PAGE = re.compile(r"\b(docs/[\w/.-]*\w)")


def _texts(node: ast.expr | None) -> Iterator[str]:
    """The strings that an expression may be."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one)
            yield from _texts(other)
        case _:
            pass


def _anomaly_kinds(text: str) -> set[str]:
    """Wherever a kind is given: to the constructors that take one, or to the name that is passed to them."""
    found: set[str] = set()
    for call in calls(text, "Parked", "AnomalyRaised", "Verdict", "_anomaly", "changed", "replace"):
        given = [*call.args[1:], keyword(call, "kind"), keyword(call, "anomaly")]
        found |= {kind for node in given for kind in _texts(node)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "kind" for t in node.targets):
            found |= set(_texts(node.value))
    return {kind for kind in found if KIND.fullmatch(kind)}


def _problem_types(text: str) -> set[str]:
    return {slug for call in calls(text, "Problem") for slug in _texts(call.args[1] if len(call.args) > 1 else None)}


def _of_code(find: Callable[[str], set[str]], *folders: Path) -> set[str]:
    return {one for path in python(*folders) for one in find(path.read_text(encoding="utf-8"))}


def _first_cells(page: str) -> set[str]:
    """What the tables of a page explain: the code words that rows begin with."""
    return set(re.findall(r"^\| `([^`]+)` \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_anomaly_kind_is_explained_and_every_explained_kind_exists() -> None:
    kinds = _of_code(_anomaly_kinds, *SERVICES.values()) | {f"parcel_{finding}" for finding in Finding}
    assert _first_cells("docs/anomalies.md") == kinds


def test_every_problem_type_is_explained_and_every_explained_type_exists() -> None:
    assert _first_cells("docs/problems.md") == _of_code(_problem_types, SHARED, *SERVICES.values())


def _refusals(text: str) -> set[str]:
    """Why a command is refused, or an event that a person applies would be parked."""
    said = {reason for call in calls(text, "Refused") for reason in _texts(call.args[1])}
    return said | {kind.replace("_", "-") for kind in _anomaly_kinds(text)}


def test_every_reason_for_which_a_command_is_refused_has_a_sentence_of_its_own_and_is_listed() -> None:
    reasons = {
        reason
        for name in ("decide", "orders", "closing", "refunds", "settling", "commands")
        for reason in _refusals((SERVICES["order_core"] / f"{name}.py").read_text(encoding="utf-8"))
    }
    explained_otherwise = {"status", "unknown-order"}
    left_by_changes = {"refund-failed", "settlement-failed", "delivery-incomplete"}
    assert reasons - explained_otherwise - left_by_changes == REASONS.keys() - {"predecessor-missing"}
    page = (ROOT / "docs/problems.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if f"`{reason}`" not in page] == []


def test_a_planted_kind_and_a_planted_problem_would_be_found() -> None:
    assert _anomaly_kinds("Parked(cause, 'planted_kind')") == {"planted_kind"}
    assert _anomaly_kinds("kind = 'one_kind' if late else 'other_kind'") == {"one_kind", "other_kind"}
    assert _refusals("Refused(cause, 'planted-reason')") == {"planted-reason"}
    assert _problem_types("raise Problem(404, 'planted-problem', 'No.')") == {"planted-problem"}


def test_no_problem_type_is_one_that_the_framework_uses_for_something_else() -> None:
    phrases = {status.phrase.lower().replace(" ", "-") for status in HTTPStatus}
    assert not _first_cells("docs/problems.md") & phrases


def test_every_setting_is_in_the_example_and_the_example_names_no_other() -> None:
    example = set(re.findall(r"^#?(ORDERLOOP_\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert example == {variable for cls, _ in generate.areas() for variable in generate.variables(cls)}


def test_every_settings_class_is_read_by_some_service_and_explains_each_setting() -> None:
    for cls, services in generate.areas():
        assert services, cls
        assert all(field.description for field in cls.model_fields.values()), cls


def test_services_read_no_environment_but_their_settings() -> None:
    """`_FILE` variables and failpoints are the shared library's own business."""
    found = [
        path for path in python(*SERVICES.values()) if re.search(r"\bos\.(environ|getenv)\b", path.read_text("utf-8"))
    ]
    assert found == []


def test_the_written_pages_are_what_the_code_says() -> None:
    assert [path.name for path, text in generate.pages() if path.read_text(encoding="utf-8") != text] == []


def test_the_page_of_events_names_every_header_that_a_record_may_carry() -> None:
    page = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    parked = re.findall(r'"(dlq_\w+)"', "".join(path.read_text(encoding="utf-8") for path in python(SHARED)))
    contract = asyncapi.document("order-core")["components"]["messages"]["OrderChanged"]["headers"]["properties"]
    assert len(parked) >= 4
    assert [name for name in [*parked, *contract] if f"`{name}`" not in page] == []


def _pages() -> list[Path]:
    folders = [ROOT / "docs", ROOT / "services", ROOT / "shared", ROOT / "deploy"]
    return [*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    dead = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert dead == []


@pytest.mark.parametrize("folder", [SHARED, LAB, *SERVICES.values()], ids=lambda folder: folder.name)
def test_runbooks_and_pages_that_the_code_names_exist(folder: Path) -> None:
    named = {
        name
        for path in [*python(folder), *folder.rglob("*.sql")]
        for name in PAGE.findall(path.read_text(encoding="utf-8"))
    }
    missing = {name for name in named if not (ROOT / name).exists() and not list(ROOT.glob(f"{name}-*.md"))}
    assert missing == set()
