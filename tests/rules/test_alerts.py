"""Alerts are worth their noise: each asks for a metric that exists and names a page that helps."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import order_core.metrics
import orderloop.metrics
import payment_callback.metrics
from payment_callback.doctor import canary

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for file in sorted((ROOT / "deploy/alerts").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]


# What they define is registered once they are imported.
DEFINED_IN = (orderloop.metrics, order_core.metrics, payment_callback.metrics, canary)


def exposed() -> set[str]:
    """Everything that the services and the canary may expose."""
    return {
        name
        for family in REGISTRY.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket", f"{family.name}_count")
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_names_a_page_that_speaks_of_it(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"\borderloop_\w+", rule["expr"]))
    page = (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")

    assert asked
    assert asked <= exposed()
    assert f"`{rule['alert']}`" in page
    assert [section for section in ("See", "Check", "Do", "Undo") if f"\n## {section}\n" not in page] == []
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]


def test_a_consumer_that_has_stopped_by_itself_rings() -> None:
    assert any("orderloop_fuse_blown" in rule["expr"] for rule in RULES)


def test_an_alert_on_a_metric_that_does_not_exist_would_be_found() -> None:
    assert "orderloop_notify_url_helthy" not in exposed()
    assert len(RULES) == len({rule["alert"] for rule in RULES}) > 0
