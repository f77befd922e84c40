"""Platform certificates: downloaded and rotated in the background, believed with proof, kept for the next start."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import REGISTRY

from orderloop import postgres
from orderloop.clock import SystemClock
from orderloop.errors import Transient
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.simulators.wechat_keys import APPID, MCHID, KeyMode, Keys, seal, self_signed
from payment_callback.app import build
from payment_callback.certificates import Certificates
from payment_callback.channels import Reason, Refused
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_keys import VerifyingKey, certificates
from payment_callback.pace import download_wait
from payment_callback.settings import CallbackSettings
from tests.support.databases import Database
from tests.support.merchant import simulator, wechat_gateway
from tests.support.simulator import SimulatorProcess
from tests.support.wechat import Sent, send, sign, transaction

HOURS = timedelta(hours=12)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def channel_side(keys: Keys) -> Iterator[SimulatorProcess]:
    with simulator("wechat", keys.folder.parent) as process:
        yield process


@pytest_asyncio.fixture
async def pool(database: Callable[[str], Database]) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings(url=database("payment_callback").app_url)  # type: ignore[arg-type]
    async with postgres.pool(settings, application_name="test") as pool:
        yield pool


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Replica:
    """A process of the service that starts without any key, as far as certificates are concerned."""

    channel: WeChat
    certificates: Certificates
    time: Time
    pool: asyncpg.Pool

    async def look(self, later: timedelta = timedelta()) -> None:
        self.time.ahead += later
        await self.certificates.look(self.pool)

    def verifies(self, sent: Sent) -> bool:
        try:
            self.channel.verify(sent.lower, sent.body, datetime.now(UTC))
        except Refused:
            return False
        return True


@pytest_asyncio.fixture
async def replica(pool: asyncpg.Pool, keys: Keys) -> AsyncIterator[Callable[[str], Replica]]:
    """`replica(url of the channel's API)`."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))

        def start(url: str, configured: Mapping[str, VerifyingKey] | None = None) -> Replica:
            channel = WeChat(mchid=MCHID, appids=[APPID], apiv3_key=keys.apiv3_key, keys=configured or {})
            time = Time()
            gateway = wechat_gateway(client, url, keys, channel=channel)
            return Replica(channel, Certificates(channel, gateway, every=HOURS, clock=time), time, pool)

        yield start


Start = Callable[..., Replica]


def downloads(side: SimulatorProcess) -> int:
    return sum(call["call"] == "certificates" for call in side.read("/sim/ledger")["calls"])


async def test_without_any_key_the_first_download_is_proven_by_the_apiv3_key(
    replica: Start, channel_side: SimulatorProcess, keys: Keys
) -> None:
    one = replica(channel_side.url)
    sent = send(keys, transaction(), mode=KeyMode.CERTIFICATE)
    with pytest.raises(Transient):
        await one.certificates.known()

    before = one.verifies(sent)
    await one.look()

    await one.certificates.known()
    assert (before, one.verifies(sent)) == (False, True)


async def test_a_restart_needs_no_network_and_replicas_learn_from_each_other(
    replica: Start, channel_side: SimulatorProcess, keys: Keys
) -> None:
    await replica(channel_side.url).look()

    cut_off = replica("http://127.0.0.1:1")
    await cut_off.look()

    assert cut_off.verifies(send(keys, transaction(), mode=KeyMode.CERTIFICATE))


async def test_a_rotation_in_mid_run_verifies_old_and_new_side_by_side_and_then_the_new_one_alone(
    replica: Start, keys: Keys
) -> None:
    with simulator("wechat", keys.folder.parent) as side:
        downloading, learning = replica(side.url), replica("http://127.0.0.1:1")
        await downloading.look()
        new = side.tell("/sim/certificates", share=0)
        await downloading.look(HOURS)
        await learning.look()
        side.tell("/sim/certificates/traffic", share=1, withdraw=True)
        both = set(learning.channel.keys)
        await downloading.look(HOURS)  # the answer is signed by the new one now

        old = keys.certificate_serial.lstrip("0")
        assert both == {old, new["serial"].lstrip("0")} == set(downloading.channel.keys)
        await downloading.pool.execute(
            "update platform_certificate set confirmed_at = confirmed_at - interval '25 hours' where serial = $1", old
        )
        await downloading.look()
        assert set(downloading.channel.keys) == {new["serial"].lstrip("0")}


async def test_a_switch_that_was_slept_through_is_caught_up_with(replica: Start, keys: Keys) -> None:
    with simulator("wechat", keys.folder.parent) as side:
        await replica(side.url).look()
        side.tell("/sim/certificates", share=1)

        late = replica(side.url)
        await late.look()

        assert len(late.channel.keys) == 2


async def test_downloads_keep_their_schedule_and_failures_come_again_soon(
    replica: Start, channel_side: SimulatorProcess
) -> None:
    one, before = replica(channel_side.url), downloads(channel_side)
    channel_side.tell("/sim/api-faults", call="certificates", fault="unreached", times=2)

    for later in (0, 1, 2, 8 * 60, 4 * 60, 8 * 60):  # failure, failure, done, too early, due, too early
        await one.look(timedelta(minutes=later))
        await one.look()

    assert downloads(channel_side) - before == 4


@pytest.mark.parametrize("failures", [0, 1, 5, 50])
@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_the_wait_is_spread_and_never_longer_than_the_setting(failures: int, chance: float) -> None:
    wait = download_wait(failures, every=HOURS, chance=chance)

    assert timedelta(seconds=45) <= wait <= HOURS
    assert failures != 0 or wait >= HOURS * 0.75


async def test_a_hundred_unknown_serials_bring_one_download_forward_and_cause_none_themselves(
    replica: Start, channel_side: SimulatorProcess, pool: asyncpg.Pool, keys: Keys
) -> None:
    one = replica(channel_side.url)
    await one.look()
    before = downloads(channel_side)
    gate = build(
        pool,
        channels=[one.channel],
        settings=CallbackSettings(refused_rows_per_hour=5),  # type: ignore[call-arg]
        clock=SystemClock(),
        http_settings=HttpSettings(),  # type: ignore[call-arg]
        certificates=one.certificates,
    )
    sent = send(keys, transaction())  # under the public key, which this replica has never heard of

    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://callback") as client:
        url = "/v1/order/callback/wechat"
        answers = [await client.post(url, content=sent.body, headers=sent.headers) for _ in range(100)]
    caused = downloads(channel_side) - before
    for _ in range(12):
        await one.look(timedelta(minutes=1))
        one.certificates.wanted()

    assert {answer.status_code for answer in answers} == {401}
    assert (caused, downloads(channel_side) - before) == (0, 1)


@pytest.mark.parametrize("fault", ["forged", "unsigned", "unreached", "later", "lost"])
async def test_an_answer_without_proof_changes_nothing(
    replica: Start, channel_side: SimulatorProcess, fault: str
) -> None:
    one = replica(channel_side.url)
    channel_side.tell("/sim/api-faults", call="certificates", fault=fault)

    await one.look()

    assert one.channel.keys == {}
    assert await one.pool.fetchval("select count(*) from platform_certificate") == 0


async def test_a_merchant_without_certificates_goes_on_with_the_configured_keys(
    replica: Start, channel_side: SimulatorProcess, keys: Keys, channel: WeChat
) -> None:
    one = replica(channel_side.url, channel.keys)
    (folder,) = (keys.folder / "certificates").glob("*.pem")

    await one.look()

    assert set(one.channel.keys) == {keys.public_key_id, *certificates([folder.read_bytes()])}
    assert one.verifies(send(keys, transaction(), mode=KeyMode.PUBLIC_KEY))
    assert one.verifies(send(keys, transaction(), mode=KeyMode.CERTIFICATE))


async def test_the_metrics_say_when_certificates_end_and_when_they_were_last_downloaded(
    replica: Start, channel_side: SimulatorProcess, keys: Keys
) -> None:
    one = replica(channel_side.url)

    await one.look()

    labels = {"channel": "wechat", "serial": keys.certificate_serial.lstrip("0")}
    ends = REGISTRY.get_sample_value("orderloop_platform_certificate_ends_timestamp_seconds", labels)
    at = REGISTRY.get_sample_value(
        "orderloop_platform_certificates_downloaded_timestamp_seconds", {"channel": "wechat"}
    )
    (key,) = one.channel.keys.values()
    assert key.not_after is not None
    assert ends == key.not_after.timestamp()
    assert at is not None
    assert abs(at - datetime.now(UTC).timestamp()) < 60


# What an answer may hold, judged without a network


def answer(keys: Keys, *pems: bytes, sealed_with: bytes | None = None, mode: KeyMode = KeyMode.CERTIFICATE) -> Sent:
    def one(pem: bytes) -> dict[str, Any]:
        text = seal(sealed_with or keys.apiv3_key, pem, nonce="n" * 12, associated_data="certificate")
        return {
            "serial_no": "whatever it says",
            "encrypt_certificate": {
                "algorithm": "AEAD_AES_256_GCM",
                "nonce": "n" * 12,
                "associated_data": "certificate",
                "ciphertext": text,
            },
        }

    return sign(keys, orjson.dumps({"data": [one(pem) for pem in pems]}), mode=mode)


def own_pem(keys: Keys) -> bytes:
    return (keys.folder / "certificates" / f"{keys.certificate_serial}.pem").read_bytes()


def refusal(channel: WeChat, sent: Sent) -> Reason:
    with pytest.raises(Refused) as caught:
        channel.read_certificates(sent.lower, sent.body, datetime.now(UTC))
    return caught.value.reason


@pytest.fixture
def bare(keys: Keys) -> WeChat:
    """Knows no key."""
    return WeChat(mchid=MCHID, appids=[APPID], apiv3_key=keys.apiv3_key, keys={})


def test_what_the_apiv3_key_has_not_sealed_is_no_proof(bare: WeChat, keys: Keys) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    theirs = self_signed(stranger, begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=1))

    assert refusal(bare, answer(keys, own_pem(keys), sealed_with=b"x" * 32)) is Reason.UNDECRYPTABLE
    assert refusal(bare, answer(keys, theirs.public_bytes(Encoding.PEM))) is Reason.UNKNOWN_SERIAL


def test_under_a_serial_that_we_have_our_own_key_judges(keys: Keys) -> None:
    """A certificate that takes our serial's place in the answer does not get to judge it."""
    stranger = rsa.generate_private_key(65537, 2048)
    known = {keys.certificate_serial.lstrip("0"): VerifyingKey(stranger.public_key())}
    channel = WeChat(mchid=MCHID, appids=[APPID], apiv3_key=keys.apiv3_key, keys=known)

    assert refusal(channel, answer(keys, own_pem(keys))) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("pems", [(), (b"junk",), (b"-----BEGIN CERTIFICATE-----",)])
def test_an_answer_without_certificates_is_malformed(bare: WeChat, keys: Keys, pems: tuple[bytes, ...]) -> None:
    assert refusal(bare, answer(keys, *pems)) is Reason.MALFORMED


def test_a_certificate_with_a_short_key_is_malformed(bare: WeChat, keys: Keys) -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505
    certificate = self_signed(short, begins=NOW - timedelta(days=1), ends=NOW + timedelta(days=1))

    assert refusal(bare, answer(keys, own_pem(keys), certificate.public_bytes(Encoding.PEM))) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("begins", "ends", "reason"),
    [(1, 2, Reason.CERTIFICATE_TOO_EARLY), (-2, -1, Reason.CERTIFICATE_EXPIRED)],
)
def test_a_certificate_vouches_for_nothing_before_its_beginning_and_after_its_end(
    bare: WeChat, keys: Keys, begins: int, ends: int, reason: Reason
) -> None:
    certificate = self_signed(keys.certificate, begins=NOW + timedelta(days=begins), ends=NOW + timedelta(days=ends))
    pem = certificate.public_bytes(Encoding.PEM)
    serial = f"{certificate.serial_number:X}"
    theirs = answer(keys, pem)
    sent = Sent(theirs.headers | {"Wechatpay-Serial": serial}, theirs.body)

    assert refusal(bare, sent) is reason
