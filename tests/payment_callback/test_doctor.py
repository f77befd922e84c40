"""Every verdict against the real thing: our service behind a firewall that misbehaves, over real sockets and TLS."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
import uvicorn
from pydantic import SecretStr

from orderloop import postgres
from orderloop.settings import HttpSettings, PostgresSettings
from orderloop_lab.home import free_port
from orderloop_lab.simulators.wechat_keys import Keys
from payment_callback import credential
from payment_callback.app import build
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_keys import fingerprint, public_key
from payment_callback.doctor.echo import echo
from payment_callback.doctor.examine import Diagnosis, Patient, examine
from payment_callback.doctor.verdict import EXPLANATIONS, REMEDIES, Verdict
from payment_callback.settings import CallbackSettings
from tests.support.databases import Databases
from tests.support.merchant import wechat_gateway
from tests.support.payment_callback import CALLBACK, Process
from tests.support.simulator import SimulatorProcess

HOST = "pay.example.test"


class Waf(SimulatorProcess):
    """The firewall as its neighbours see it: over TLS where it has a certificate."""

    def __init__(self, state: Path, upstream: str, certificate: str) -> None:
        super().__init__("waf", state, SIM_WAF_UPSTREAM=upstream, SIM_WAF_CERTIFICATE=certificate, SIM_WAF_HOST=HOST)
        self.state = state
        self.scheme = "http" if certificate == "none" else "https"
        self.http = httpx.Client(
            base_url=f"{self.scheme}://127.0.0.1:{self.port}",
            timeout=10,
            trust_env=False,
            verify=False,  # noqa: S501  # only to steer it
        )

    @property
    def notify_url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}{CALLBACK}"

    def set_rules(self, *rules: dict[str, str]) -> None:
        self.http.put("/sim/rules", json=rules).raise_for_status()


@dataclass(frozen=True)
class Scene:
    service: Process
    waf: Waf
    patient: Patient

    async def diagnose(self, *rules: dict[str, str], **changes: Any) -> Diagnosis:
        self.waf.set_rules(*rules)
        return await examine(replace(self.patient, **changes))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, keys: Keys) -> AsyncIterator[Process]:
    db = await asyncio.to_thread(databases.clone, "payment_callback")
    async with Process(db, keys) as process:
        yield process
    await asyncio.to_thread(databases.drop, [db.name])


@pytest.fixture(scope="module")
def waf(service: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waf]:
    with Waf(tmp_path_factory.mktemp("waf"), service.url, "valid") as waf:
        yield waf


@pytest.fixture(scope="module")
def patient(waf: Waf, keys: Keys) -> Patient:
    known = public_key(keys.public_key_id, (keys.folder / "public_key.pem").read_bytes())
    return Patient(
        url=waf.notify_url,
        key=credential.doctor_key(keys.apiv3_key),
        keys={serial: fingerprint(key) for serial, key in known.items()},
        lab=True,
        authority=waf.state / "ca.pem",
        connect_to="127.0.0.1",
        timeout=2,
    )


@pytest.fixture
def scene(service: Process, waf: Waf, patient: Patient) -> Scene:
    return Scene(service, waf, patient)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_path_without_obstacles_is_healthy(scene: Scene) -> None:
    diagnosis = await scene.diagnose()

    assert diagnosis.verdict is Verdict.HEALTHY
    report = diagnosis.steps[0].finding.report
    assert report is not None
    assert report.user_agent == "Mozilla/4.0"
    assert report.reason == "bad_signature"
    assert diagnosis.certificate_ends is not None


@pytest.mark.parametrize(
    ("rule", "verdict", "detail"),
    [
        ({"action": "block_page", "brand": "aliyun"}, Verdict.BLOCK_PAGE, "Aliyun WAF"),
        ({"action": "block_page", "brand": "tencent"}, Verdict.BLOCK_PAGE, "Tencent Cloud WAF"),
        ({"action": "block_page", "brand": "cloudflare"}, Verdict.BLOCK_PAGE, "Cloudflare"),
        ({"action": "block_page", "brand": "modsecurity"}, Verdict.BLOCK_PAGE, "ModSecurity"),
        ({"action": "block_page", "brand": "safeline"}, Verdict.BLOCK_PAGE, "SafeLine"),
        ({"action": "forbid"}, Verdict.FORBIDDEN, "403"),
        ({"action": "human_check"}, Verdict.FOREIGN_SUCCESS, "a human check"),
        ({"action": "redirect", "location": "https://pay.example.test/login"}, Verdict.REDIRECT, "/login"),
        ({"action": "strip_headers"}, Verdict.HEADERS_STRIPPED, "wechatpay-signature"),
        ({"action": "rewrite_body"}, Verdict.BODY_CHANGED, ""),
        ({"action": "bad_gateway"}, Verdict.UPSTREAM_DOWN, "502"),
    ],
)
async def test_who_stands_in_the_way_is_told_apart(
    scene: Scene, rule: dict[str, str], verdict: Verdict, detail: str
) -> None:
    diagnosis = await scene.diagnose(rule)

    assert diagnosis.verdict is verdict
    assert detail in diagnosis.detail


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ({"user_agent": "Mozilla/4.0"}, "a browser's User-Agent"),
        ({"body": "ciphertext"}, "without the encrypted body"),
        ({"path": CALLBACK}, "the path, the method or the sender's address"),
        ({"source": "127.0.0.0/8"}, "the path, the method or the sender's address"),
    ],
)
async def test_what_the_rule_is_about_is_found_by_changing_one_thing_at_a_time(
    scene: Scene, condition: dict[str, str], hint: str
) -> None:
    diagnosis = await scene.diagnose({"action": "human_check"} | condition)

    assert diagnosis.verdict is Verdict.FOREIGN_SUCCESS
    assert hint in " ".join(diagnosis.hints)


async def test_a_hanging_and_a_cutting_path_are_told_apart(scene: Scene) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cutting = await scene.diagnose(url=f"http://{HOST}:{port}{CALLBACK}")
    hanging = await scene.diagnose({"action": "hang"}, timeout=0.7)

    assert (hanging.verdict, cutting.verdict) == (Verdict.TIMEOUT, Verdict.CUT_OFF)


async def test_a_wrong_path_is_found_and_the_right_one_named(scene: Scene) -> None:
    diagnosis = await scene.diagnose(url=scene.patient.url.replace("/v1/order", "/api/order"))

    assert diagnosis.verdict is Verdict.WRONG_PATH
    assert f"{CALLBACK} reaches our service" in " ".join(diagnosis.hints)


async def test_a_trailing_slash_is_a_fault_even_in_the_lab_and_the_url_without_it_is_named(scene: Scene) -> None:
    diagnosis = await scene.diagnose(url=scene.patient.url + "/")

    assert diagnosis.verdict is Verdict.TRAILING_SLASH
    assert f"{CALLBACK} reaches our service" in " ".join(diagnosis.hints)


async def test_our_service_with_other_keys_is_told_from_a_healthy_one(scene: Scene) -> None:
    another_environment = await scene.diagnose(key=credential.doctor_key(b"x" * 32))
    lacks_a_key = await scene.diagnose(keys={"PUB_KEY_ID_9": "0123"})

    assert (another_environment.verdict, lacks_a_key.verdict) == (Verdict.WRONG_KEY, Verdict.WRONG_KEY)
    assert "PUB_KEY_ID_9" in lacks_a_key.detail


async def test_a_name_that_is_none_and_a_port_where_nobody_listens(scene: Scene) -> None:
    unknown = await scene.diagnose(url="https://nowhere.invalid/v1/order/callback/wechat", connect_to=None)
    nobody = await scene.diagnose(url=f"https://{HOST}:{free_port()}{CALLBACK}")

    assert (unknown.verdict, nobody.verdict) == (Verdict.DNS_FAILURE, Verdict.UNREACHABLE)


@pytest.mark.parametrize(
    ("certificate", "says"),
    [("expired", "expired"), ("wrong_host", HOST), ("unknown", "local issuer")],
)
async def test_certificates_that_the_channel_would_refuse(
    scene: Scene, tmp_path: Path, certificate: str, says: str
) -> None:
    with Waf(tmp_path, scene.service.url, certificate) as waf:
        diagnosis = await examine(replace(scene.patient, url=waf.notify_url, authority=tmp_path / "ca.pem"))

    assert diagnosis.verdict is Verdict.TLS_FAILURE
    assert says in diagnosis.detail


async def test_outside_the_lab_http_ports_and_private_addresses_are_faults(scene: Scene, tmp_path: Path) -> None:
    with Waf(tmp_path, scene.service.url, "none") as waf:
        plain = await examine(replace(scene.patient, url=waf.notify_url, lab=False))
    port = await scene.diagnose(lab=False)
    private = await examine(replace(scene.patient, url="https://localhost/x", lab=False, connect_to=None))

    assert plain.verdict is Verdict.NOT_HTTPS
    assert plain.steps[0].finding.verdict is Verdict.HEALTHY  # the path itself would do
    assert port.verdict is Verdict.BAD_URL
    assert private.verdict is Verdict.PRIVATE_ADDRESS


async def test_probes_are_counted_apart_and_an_operator_sees_them_in_the_log(scene: Scene) -> None:
    before = (await scene.service.http.get("/metrics")).text

    await scene.diagnose()

    after = (await scene.service.http.get("/metrics")).text
    (newest, *_) = (await scene.service.http.get("/v1/callbacks")).json()["callbacks"]
    assert 'verdict="doctor"' in after
    assert _refusals(before) == _refusals(after)
    assert (newest["verdict"], newest["reason"], newest["detail"]) == ("refused", "doctor", "would be bad_signature")
    assert newest["source_address"]
    assert "orderloop-doctor" not in str(newest)


def _refusals(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if 'verdict="refused"' in line and "_created" not in line]


async def test_nobody_else_can_make_or_use_a_credential(scene: Scene, keys: Keys) -> None:
    key, now = scene.patient.key, datetime.now(UTC)
    forged = credential.issue(b"another key", now)
    old = credential.issue(key, now - timedelta(days=2))
    genuine = credential.issue(key, now)

    for mine in (forged, old, genuine[:-1] + ("A" if genuine[-1] != "A" else "B")):
        answer = await scene.service.http.post(
            CALLBACK, content=b'{"id":"%b"}' % mine.encode(), headers={"Content-Type": "application/json"}
        )
        assert answer.json() == {"code": "FAIL", "message": "失败"}
    report = credential.Report("x", (), "", "", "", 0, {})
    assert credential.unseal(key, forged, credential.seal(key, genuine, report)) is None
    assert credential.unseal(key, genuine, "nonsense") is None


async def test_every_verdict_is_explained_and_mended() -> None:
    assert set(EXPLANATIONS) == set(Verdict)
    assert set(REMEDIES) == set(Verdict) - {Verdict.HEALTHY}


class WeChatPay(SimulatorProcess):
    def __init__(self, state: Path, notify_url: str) -> None:
        super().__init__("wechat", state, SIM_NOTIFY_URL=notify_url)


async def _command(scene: Scene, keys: Keys, *arguments: str, **environ: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "payment_callback", *arguments),
        env={"PATH": "", "COLUMNS": "160", **keys.settings(), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_the_command_says_what_it_found_what_to_do_and_what_to_tell_the_firewall(
    scene: Scene, keys: Keys
) -> None:
    here = ("--lab", "--connect-to", "127.0.0.1", "--ca", str(scene.patient.authority))
    scene.waf.set_rules({"action": "block_page", "brand": "tencent", "user_agent": "Mozilla/4.0"})
    blocked, said = await _command(scene, keys, "doctor", "--url", scene.patient.url, *here)
    scene.waf.set_rules()
    healthy, told = await _command(
        scene, keys, "doctor", "--json", *here, ORDERLOOP_CALLBACK_NOTIFY_URL=scene.patient.url
    )
    nothing, complaint = await _command(scene, keys, "doctor")

    assert (blocked, healthy, nothing) == (1, 0, 2)
    assert "block_page" in said
    assert "黑白名单" in said
    assert CALLBACK in said
    assert json.loads(told)["verdict"] == "healthy"
    assert "ORDERLOOP_CALLBACK_NOTIFY_URL" in complaint


async def test_the_channel_s_own_self_test_is_the_last_word(databases: Databases, keys: Keys, tmp_path: Path) -> None:
    """Both kinds of keys; then a service that has been given a wrong one."""
    db = await asyncio.to_thread(databases.clone, "payment_callback")
    shutil.copytree(keys.folder, tmp_path / "keys")
    with WeChatPay(tmp_path, "") as channel:
        asking = {"ORDERLOOP_POSTGRES_URL": db.app_url, "ORDERLOOP_WECHAT_API_BASE_URL": channel.url}
        async with Process(db, keys) as service:
            scene = Scene(service, None, None)  # type: ignore[arg-type]
            url = ("--lab", "--json", "--echo", "--url", service.url + CALLBACK)
            healthy, told = await _command(scene, keys, "doctor", *url, **asking)
        async with Process(db, keys, ORDERLOOP_WECHAT_APIV3_KEY="x" * 32, ORDERLOOP_CALLBACK_DOCTOR_KEY="d") as service:
            url = ("--lab", "--json", "--echo", "--url", service.url + CALLBACK)
            wrong, why = await _command(scene, keys, "doctor", *url, **asking, ORDERLOOP_CALLBACK_DOCTOR_KEY="d")
    await asyncio.to_thread(databases.drop, [db.name])

    assert healthy == 0, told
    assert [probe["verdict"] for probe in json.loads(told)["probes"]] == ["healthy"] * 3
    assert wrong == 1
    assert json.loads(why)["verdict"] == "wrong_key"
    assert "undecryptable" in json.loads(why)["detail"]


class Fast:
    """A clock that is six minutes ahead."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(minutes=6)


@pytest_asyncio.fixture(loop_scope="module")
async def pool(databases: Databases) -> AsyncIterator[asyncpg.Pool]:
    db = await asyncio.to_thread(databases.clone, "payment_callback")
    async with postgres.pool(PostgresSettings(url=SecretStr(db.app_url)), application_name="test") as pool:
        yield pool
    await asyncio.to_thread(databases.drop, [db.name])


async def test_a_service_whose_clock_is_wrong_says_so_itself(
    scene: Scene, pool: asyncpg.Pool, channel: WeChat, keys: Keys
) -> None:
    settings, http_settings = CallbackSettings(), HttpSettings()  # type: ignore[call-arg]
    key = credential.doctor_key(keys.apiv3_key)
    app = build(pool, channels=[channel], settings=settings, clock=Fast(), http_settings=http_settings, doctor_key=key)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve([listening]))

    diagnosis = await scene.diagnose(url=f"http://{HOST}:{listening.getsockname()[1]}{CALLBACK}")
    server.should_exit = True
    await serving

    assert diagnosis.verdict is Verdict.CLOCK
    assert diagnosis.detail.startswith("+36")
    report = diagnosis.steps[0].finding.report
    assert report is not None
    assert report.reason == "clock"


async def test_a_self_test_that_never_arrives_and_one_that_is_not_taken_are_told_apart(
    pool: asyncpg.Pool, channel: WeChat, keys: Keys, tmp_path: Path
) -> None:
    shutil.copytree(keys.folder, tmp_path / "keys")
    serials = [keys.public_key_id, "PUB_KEY_ID_9"]  # the channel knows nothing of the second
    with WeChatPay(tmp_path, "") as wechat:
        async with httpx.AsyncClient(trust_env=False) as client:
            gateway = wechat_gateway(client, wechat.url, keys)
            swallowed, refused = await echo(
                pool, gateway, channel, notify_url="http://127.0.0.1:1/", serials=serials, patience_seconds=0.5
            )

    assert swallowed.finding.verdict is Verdict.NOT_ARRIVED
    assert "0.5 s" in swallowed.finding.detail
    assert refused.finding.verdict is Verdict.NOT_ASKED
    assert "PARAM_ERROR" in refused.finding.detail


async def test_the_canary_publishes_what_it_finds_and_looks_again(scene: Scene, keys: Keys) -> None:
    port = free_port()
    scene.waf.set_rules()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "payment_callback", "canary", "--every", "1", "--url", scene.patient.url),
        *("--lab", "--connect-to", "127.0.0.1", "--ca", str(scene.patient.authority)),
        env={"PATH": "", "ORDERLOOP_HTTP_PORT": str(port), "ORDERLOOP_LOG_LEVEL": "ERROR", **keys.settings()},
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await _until(client, 'orderloop_notify_url_healthy{channel="wechat"} 1.0')
            scene.waf.set_rules({"action": "forbid"})
            metrics = await _until(client, 'orderloop_notify_url_healthy{channel="wechat"} 0.0')
    finally:
        process.terminate()
        await process.wait()

    assert 'orderloop_notify_url_verdict{channel="wechat",verdict="forbidden"} 1.0' in metrics
    assert "orderloop_notify_url_certificate_ends_timestamp_seconds" in metrics


async def _until(client: httpx.AsyncClient, line: str) -> str:
    async with asyncio.timeout(20):
        while True:
            try:
                metrics = (await client.get("/metrics")).text
            except httpx.TransportError:
                metrics = ""
            if line in metrics:
                return metrics
            await asyncio.sleep(0.1)  # between two scrapes
