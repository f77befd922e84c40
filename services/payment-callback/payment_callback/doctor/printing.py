"""A diagnosis for people and for programs."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import allow_list
from .examine import Diagnosis
from .url import parse
from .verdict import EXPLANATIONS, REMEDIES, Verdict

_FIREWALLS = {"Tencent": "tencent", "Aliyun": "aliyun", "Cloudflare": "cloudflare", "ModSecurity": "modsecurity",
              "SafeLine": "safeline", "nginx": "nginx"}  # fmt: skip
_BLOCKED = frozenset({Verdict.FOREIGN_SUCCESS, Verdict.BLOCK_PAGE, Verdict.FORBIDDEN, Verdict.NOT_ARRIVED})


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "url": diagnosis.url,
        "verdict": diagnosis.verdict,
        "healthy": diagnosis.healthy,
        "detail": diagnosis.detail,
        "explanation": EXPLANATIONS[diagnosis.verdict],
        "remedy": REMEDIES.get(diagnosis.verdict, ""),
        "faults": [{"verdict": fault.verdict, "text": fault.text} for fault in diagnosis.faults],
        "addresses": list(diagnosis.addresses),
        "hints": list(diagnosis.hints),
        "certificate_ends": diagnosis.certificate_ends.isoformat() if diagnosis.certificate_ends else None,
        "probes": [
            {
                "what": step.what,
                "verdict": step.finding.verdict,
                "detail": step.finding.detail,
                "milliseconds": step.milliseconds,
                "source_address": step.finding.report.source_address if step.finding.report else None,
            }
            for step in diagnosis.steps
        ],
    }


def show(console: Console, diagnosis: Diagnosis) -> None:
    colour = "green" if diagnosis.healthy else "red"
    console.print(f"[bold]{escape(diagnosis.url)}[/]  {escape(', '.join(diagnosis.addresses))}")
    detail = f" ({escape(diagnosis.detail)})" if diagnosis.detail else ""
    console.print(f"[bold {colour}]{diagnosis.verdict}[/]{detail}")
    console.print(EXPLANATIONS[diagnosis.verdict])
    for fault in diagnosis.faults:
        console.print(f"  [red]✗[/] {escape(fault.text)}")
    if diagnosis.steps:
        console.print(_table(diagnosis))
    for hint in diagnosis.hints:
        console.print(f"  [yellow]→[/] {escape(hint)}")
    if diagnosis.certificate_ends:
        console.print(f"The certificate is valid until {diagnosis.certificate_ends:%Y-%m-%d}.")
    if remedy := REMEDIES.get(diagnosis.verdict):
        console.print(f"[bold]What to do:[/] {remedy}")
    if diagnosis.verdict in _BLOCKED:
        parts = parse(diagnosis.url)
        named = next((key for mark, key in _FIREWALLS.items() if mark in diagnosis.detail), "nginx")
        console.print(allow_list.snippet(named, parts.path if parts else "/"), markup=False, highlight=False)


def _table(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("probe")
    table.add_column("found")
    table.add_column("ms", justify="right")
    for step in diagnosis.steps:
        finding = step.finding
        seen = f", seen from {finding.report.source_address}" if finding.report else ""
        said = escape(f"{finding.verdict} {finding.detail}{seen}".strip())
        table.add_row(escape(step.what), said, str(step.milliseconds) if step.milliseconds else "")
    return table
