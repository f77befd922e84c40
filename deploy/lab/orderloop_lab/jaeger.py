"""Jaeger, built once per machine from its Go module, because no ready-made binary comes without a download site."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rich.progress import Progress

from orderloop_lab.cache import cache_folder, once
from orderloop_lab.errors import LabError
from orderloop_lab.progress import step

NAME = "jaeger"
MODULE = "github.com/jaegertracing/jaeger"
MODULE_VERSION = "v1.76.0"  # the Go tag of Jaeger 2.13.0
VERSION = "2.13.0"

# sarama has moved; the version that Jaeger's own dependencies still ask for by the old name is pinned here.
GO_MOD = f"""\
module orderloop/jaeger

go 1.26

require {MODULE} {MODULE_VERSION}

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
"""

LISTENERS = ("otlp", "otlp-grpc", "query", "query-grpc", "health", "metrics")

MAX_TRACES = 50_000  # in memory only, about 150 MB


def binary() -> Path | None:
    """The built Jaeger, if `python -m orderloop_lab jaeger` has been run on this machine."""
    built = _folder() / "jaeger"
    return built if built.exists() else None


def build(progress: Progress) -> Path:
    """Four minutes the first time, and 85 MB in the cache."""
    go = shutil.which("go")
    if go is None:
        raise LabError(
            "Go is missing, and Jaeger is built from its Go module: install Go 1.26 or newer (https://go.dev/dl). "
            "Without Jaeger the lab keeps traces in a small receiver of its own, nothing else changes."
        )
    return once(_folder(), lambda target: _build(go, target, progress)) / "jaeger"


def config(ports: Mapping[str, int]) -> str:
    """The configuration file (JSON is YAML too); `ports`: a loopback port for each of LISTENERS."""

    def listen(purpose: str) -> dict[str, str]:
        return {"endpoint": f"127.0.0.1:{ports[purpose]}"}

    metrics = {"host": "127.0.0.1", "port": ports["metrics"]}
    settings = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {
                "traces": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["jaeger_storage_exporter"]}
            },
            "telemetry": {"metrics": {"readers": [{"pull": {"exporter": {"prometheus": metrics}}}]}},
        },
        "extensions": {
            "healthcheckv2": {"use_v2": True, "http": listen("health")},
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": MAX_TRACES}}}},
            "jaeger_query": {"storage": {"traces": "memory"}, "http": listen("query"), "grpc": listen("query-grpc")},
        },
        "receivers": {"otlp": {"protocols": {"http": listen("otlp"), "grpc": listen("otlp-grpc")}}},
        "processors": {"batch": {"timeout": "200ms"}},  # a test that asks right after the request finds its trace
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    return json.dumps(settings, indent=2)


def _folder() -> Path:
    return cache_folder() / f"jaeger-{VERSION}"


def _build(go: str, target: Path, progress: Progress) -> None:
    source = target / "source"
    source.mkdir()
    (source / "go.mod").write_text(GO_MOD, encoding="ascii")
    with step(progress, "Jaeger: fetching its source (once per machine)"):
        downloaded = json.loads(_go([go, "mod", "download", "-json", f"{MODULE}@{MODULE_VERSION}"], source))
        # Upstream's checksums count here too: every module is checked against them.
        shutil.copyfile(Path(downloaded["Dir"]) / "go.sum", source / "go.sum")
    with step(progress, "Jaeger: building it, about 4 minutes (once per machine)"):
        version = f"-s -w -X {MODULE}/internal/version.latestVersion=v{VERSION}"
        _go(
            [go, "build", "-mod=mod", "-trimpath", "-ldflags", version, "-o", "../jaeger", f"{MODULE}/cmd/jaeger"],
            source,
        )
    shutil.rmtree(source)


def _go(argv: list[str], folder: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(argv, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise LabError(f"Go cannot build Jaeger ({reason}): check the network and `go env GOPROXY`, then try again.")
    return done.stdout
