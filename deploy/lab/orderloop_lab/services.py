"""Which processes the system consists of, and the environment each of them gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orderloop_lab.backing import Backing
from orderloop_lab.databases import url_for
from orderloop_lab.home import Home
from orderloop_lab.simulators import alipay_keys, wechat_keys
from orderloop_lab.tracing import Tracing

Env = dict[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    package: str
    database: str
    command: str = "serve"

    @property
    def listens(self) -> bool:
        return self.command == "serve"


SERVICES = (
    Service("payment-callback", "payment_callback", "payment_callback"),
    Service("order-core", "order_core", "order_core"),
    # order-core publishes much, and its relay is what chaos tests kill: a process of its own.
    Service("order-core-relay", "order_core", "order_core", command="relay"),
    Service("logistics-poller", "logistics_poller", "logistics"),
    Service("settlement", "settlement", "settlement"),
)
SIMULATORS = ("wechat", "alipay", "kuaidi100", "zto", "wms", "bank")
CHANNELS = ("wechat", "alipay")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all environments are made from."""

    home: Home
    backing: Backing
    prefix: str  # before topic and database names, on servers that others use too
    tracing: Tracing
    urls: Mapping[str, str]  # of everything that listens, by name
    time_factor: float  # how much faster than in reality waiting passes

    @property
    def channel_factor(self) -> float:
        """A channel's day of retries must outlast a service that starts anew, as it does in reality."""
        return min(self.time_factor, 60.0)

    def database(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def database_url(self, database: str, role: str) -> str:
        return url_for(self.backing.postgres_admin_url, role=f"{database}_{role}", database=self.database(database))

    def of_service(self, service: Service) -> Env:
        common = {
            "ORDERLOOP_POSTGRES_URL": self.database_url(service.database, "app"),
            "ORDERLOOP_KAFKA_BOOTSTRAP": self.backing.kafka_bootstrap,
            "ORDERLOOP_KAFKA_TOPIC_PREFIX": self.prefix,
            # The same member comes back after a kill: nobody waits for the old one's session to end.
            "ORDERLOOP_KAFKA_INSTANCE_ID": f"{self.prefix}{service.name}",
            "ORDERLOOP_TRACING_ENDPOINT": self.tracing.endpoint,
        }
        if service.listens:
            common["ORDERLOOP_HTTP_PORT"] = self.urls[service.name].rpartition(":")[2]
        match service.package:
            case "payment_callback":
                operator = {
                    "ORDERLOOP_HTTP_OPERATOR_TOKEN": self.home.secret("operator"),
                    "ORDERLOOP_CALLBACK_NOTIFY_URL": f"{self.urls['payment-callback']}/v1/order/callback/wechat",
                }
                return common | operator | self._payment_channels()
            case "order_core":
                return common | {
                    "ORDERLOOP_REDIS_URL": self.backing.redis_url,
                    "ORDERLOOP_OUTBOX_RELAY": "external",
                    "ORDERLOOP_HOLDS_BASE_URL": self.urls["payment-callback"],
                    "ORDERLOOP_HOLDS_TOKEN": self.home.secret("operator"),
                }
            case "logistics_poller":
                return common | self._couriers()
            case "settlement":
                return common | self._bank()
            case other:
                raise ValueError(f"{other} has no environment here")

    def of_simulator(self, name: str) -> Env:
        common = {
            "SIM_PORT": self.urls[name].rpartition(":")[2],
            "SIM_STATE": str(self.simulator_state(name)),
            "SIM_SEED": self.home.id,
            "SIM_TIME_FACTOR": str(self.channel_factor if name in CHANNELS else self.time_factor),
        }
        match name:
            case "wechat":
                return common | {"SIM_NOTIFY_URL": f"{self.urls['payment-callback']}/v1/order/callback/wechat"}
            case "alipay":
                return common | {"SIM_NOTIFY_URL": f"{self.urls['payment-callback']}/v1/order/callback/alipay"}
            case "kuaidi100":
                return common | {
                    "SIM_KUAIDI100_CUSTOMER": self.home.secret("kuaidi100-customer", 16),
                    "SIM_KUAIDI100_KEY": self.home.secret("kuaidi100-key", 8),
                }
            case "zto":
                return common | {
                    "SIM_ZTO_APP_KEY": self.home.secret("zto-app-key", 8),
                    "SIM_ZTO_APP_SECRET": self.home.secret("zto-app-secret", 16),
                }
            case "wms":
                return common | {"SIM_WMS_COURIER_URLS": f"{self.urls['kuaidi100']},{self.urls['zto']}"}
            case "bank":
                return common | {"SIM_BANK_SECRET": self.home.secret("bank")}
            case other:
                raise ValueError(f"{other} has no environment here")

    def simulator_state(self, name: str) -> Path:
        return self.home.folder / "outside-world" / name

    def _payment_channels(self) -> Env:
        accounts: Env = {
            "ORDERLOOP_WECHAT_API_BASE_URL": self.urls["wechat"],
            "ORDERLOOP_ALIPAY_GATEWAY_URL": f"{self.urls['alipay']}/gateway.do",
            "ORDERLOOP_EVIDENCE_TIME_FACTOR": str(self.channel_factor),
            # A minute in reality. It is about how long a callback travels, which no factor makes shorter.
            "ORDERLOOP_EVIDENCE_GRACE_SECONDS": "5",
        }
        for name, prepare in (("wechat", wechat_keys.prepare), ("alipay", alipay_keys.prepare)):
            state = self.simulator_state(name)
            state.mkdir(parents=True, exist_ok=True)
            accounts |= prepare(state)
        return accounts

    def _bank(self) -> Env:
        return {
            "ORDERLOOP_BANK_BASE_URL": self.urls["bank"],
            "ORDERLOOP_BANK_SECRET": self.home.secret("bank"),
            # 15 s and minutes in reality; a slow bank shall be seen without waiting for it.
            "ORDERLOOP_BANK_TIMEOUT_SECONDS": "1",
            "ORDERLOOP_BANK_QUERY_SECONDS": "1",
            "ORDERLOOP_BANK_LEASE_SECONDS": "5",
            "ORDERLOOP_SETTLEMENT_PLATFORM_FEE": "60",
            "ORDERLOOP_SETTLEMENT_PLATFORM_ACCOUNT": "6222000000000001",
            "ORDERLOOP_SETTLEMENT_RECEIVERS": '[{"name": "merchant", "account": "6222000000000002"}]',
        }

    def _couriers(self) -> Env:
        return {
            "ORDERLOOP_REDIS_URL": self.backing.redis_url,
            "ORDERLOOP_WMS_BASE_URL": self.urls["wms"],
            "ORDERLOOP_KUAIDI100_BASE_URL": self.urls["kuaidi100"],
            "ORDERLOOP_KUAIDI100_CUSTOMER": self.home.secret("kuaidi100-customer", 16),
            "ORDERLOOP_KUAIDI100_KEY": self.home.secret("kuaidi100-key", 8),
            "ORDERLOOP_ZTO_BASE_URL": self.urls["zto"],
            "ORDERLOOP_ZTO_APP_KEY": self.home.secret("zto-app-key", 8),
            "ORDERLOOP_ZTO_APP_SECRET": self.home.secret("zto-app-secret", 16),
            "ORDERLOOP_LOGISTICS_TIME_FACTOR": str(self.time_factor),
        }
