"""The three real services everything stands on: PostgreSQL, Kafka, and Valkey (which speaks Redis).

`provide` is the one seam. Each of the three comes from wherever it is to be had, independently of the others:
- the environment: ORDERLOOP_POSTGRES_URL (here the URL of an *administrator*: the lab makes databases and roles),
  ORDERLOOP_KAFKA_BOOTSTRAP, ORDERLOOP_REDIS_URL name a service that runs already; the lab never stops it;
- embedded: PostgreSQL and Valkey from their wheels, Apache Kafka from locked jars on the Java of a wheel.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from rich.progress import Progress

from orderloop_lab.backing import kafka, postgres, valkey
from orderloop_lab.home import Home
from orderloop_lab.processes import Supervisor

POSTGRES, KAFKA, REDIS = "ORDERLOOP_POSTGRES_URL", "ORDERLOOP_KAFKA_BOOTSTRAP", "ORDERLOOP_REDIS_URL"

# A way to get all three started; containers would be another one.
EMBEDDED: Mapping[str, Callable[[Home, Supervisor, Progress], Awaitable[str]]] = {
    POSTGRES: postgres.start,
    KAFKA: kafka.start,
    REDIS: valkey.start,
}


@dataclass(frozen=True, slots=True)
class Backing:
    postgres_admin_url: str
    kafka_bootstrap: str  # host:port[,host:port]
    redis_url: str


async def provide(
    service: str, home: Home, supervisor: Supervisor, progress: Progress, environment: Mapping[str, str]
) -> str:
    """The address of one of POSTGRES, KAFKA, REDIS: from `environment`, or of one started here."""
    return environment.get(service) or await EMBEDDED[service](home, supervisor, progress)
