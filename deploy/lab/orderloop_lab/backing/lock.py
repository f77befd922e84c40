"""`python -m orderloop_lab.backing.lock` writes jars.lock anew, for the Kafka named here.

Kafka is resolved alone: together with a logging binding the resolver settles on an old kafka-clients. The binding
of the very log4j version that Kafka brings comes from a second look; without it Kafka logs nothing.
"""

import hashlib

import jgo

from orderloop_lab.backing.jars import LOCK, Jar

KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"


def resolve() -> list[Jar]:
    kafka = jgo.resolve(KAFKA)
    log4j = next(artifact.version for artifact in kafka if artifact.artifactId == "log4j-core")
    binding = jgo.resolve(f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}")[0]
    return [
        Jar(one.groupId, one.artifactId, one.version, hashlib.sha256(one.resolve().read_bytes()).hexdigest())
        for one in sorted([*kafka, binding], key=str)
    ]


if __name__ == "__main__":
    lines = [f"{jar.group}:{jar.artifact}:{jar.version} {jar.sha256}\n" for jar in resolve()]
    LOCK.write_text(f"# {KAFKA} and what it needs, with sha256.\n{''.join(lines)}", encoding="ascii")
