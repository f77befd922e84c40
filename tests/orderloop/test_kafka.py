"""How clients reach the brokers."""

import asyncio
import ssl
from pathlib import Path

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import ValidationError

from orderloop import kafka
from orderloop.ids import new_order_no
from orderloop.settings import KafkaSettings
from tests.support.kafka import AT

CANARY = "canary-s3cret"


def settings(**values: object) -> KafkaSettings:
    return KafkaSettings.model_validate({"bootstrap": "127.0.0.1:1", **values})


async def test_producer_and_consumer_log_in_over_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{CANARY}\n")
    monkeypatch.setenv("ORDERLOOP_KAFKA_SASL_PASSWORD_FILE", str(tmp_path / "password"))
    secured = settings(security_protocol="SASL_SSL", sasl_username="orderloop")
    clients: list[AIOKafkaProducer | AIOKafkaConsumer] = [
        kafka.producer(secured, client_id="test"),
        kafka.consumer(secured, group="test", topics=["a"]),
    ]
    for client in clients:
        reached = client.client if isinstance(client, AIOKafkaProducer) else client._client
        assert (reached._security_protocol, reached._sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
        assert (reached._sasl_plain_username, reached._sasl_plain_password) == ("orderloop", CANARY)
        assert (reached._ssl_context.verify_mode, reached._ssl_context.check_hostname) == (ssl.CERT_REQUIRED, True)
        await client.stop()
    assert CANARY not in repr(secured)


def test_the_authority_that_vouches_for_the_brokers_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        kafka.connection(settings(security_protocol="SSL", ca_file=tmp_path / "ca.pem"))


def test_without_further_settings_nothing_is_encrypted() -> None:
    told = kafka.connection(settings())
    assert (told["security_protocol"], told["ssl_context"]) == ("PLAINTEXT", None)


@pytest.mark.parametrize("half", [{"sasl_username": "orderloop"}, {"sasl_password": CANARY}, {}])
def test_who_is_to_log_in_needs_a_name_and_a_password(half: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="needs sasl_username and sasl_password") as raised:
        settings(security_protocol="SASL_PLAINTEXT", **half)
    assert CANARY not in str(raised.value)


async def test_a_record_is_placed_where_the_client_itself_would_place_it() -> None:
    producer = kafka.producer(settings(), client_id="test")
    for key in (new_order_no(AT).encode() for _ in range(50)):
        theirs = producer._partitioner(key, [*range(12)], [])
        assert kafka.partition(key, 12) == theirs
    await producer.stop()


def test_a_connection_that_a_dying_broker_has_closed_is_no_bug_of_ours(kafka_bootstrap: str) -> None:
    async def ask_twice() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            client = producer.client
            node_id = client.get_random_node()
            assert await client.ready(node_id)
            connection = next(conn for (node, _), conn in client._conns.items() if node == node_id)
            connection._writer.transport.abort()  # as when the process at the other end is killed
            await asyncio.sleep(0)  # the transport knows, aiokafka does not yet
            with pytest.raises(KafkaConnectionError, match="handler is closed"):
                await connection.send(MetadataRequest([]))
            assert await client.force_metadata_update()  # over a new connection

    uvloop.run(ask_twice())  # asyncio's own loop lets such a write pass


async def test_a_consumer_is_left_behind_however_its_own_work_ends(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap)
    await consumer.start()
    await asyncio.sleep(0)  # the fetcher is at work
    # It cancels what it has not finished and awaits it, without expecting that this raises.
    unfinished = asyncio.create_task(endless())
    consumer._fetcher._pending_tasks.add(unfinished)
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 0.1)
    with monkeypatch.context() as stuck:
        stuck.setattr(consumer, "stop", endless)  # as when the coordinator cannot be reached
        await kafka.leave(consumer)
    assert unfinished.cancelled()
    consumer._fetcher._pending_tasks.clear()
    await consumer.stop()
