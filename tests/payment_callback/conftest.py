"""A merchant and its channel: keys are made once, they take a second."""

from pathlib import Path

import pytest

from orderloop_lab.simulators import alipay_keys
from orderloop_lab.simulators.wechat_keys import APPID, MCHID, Keys, open_keys
from payment_callback.channels.wechat import WeChat
from payment_callback.channels.wechat_keys import certificates, public_key


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return open_keys(tmp_path_factory.mktemp("wechat"))


@pytest.fixture
def channel(keys: Keys) -> WeChat:
    """With both kinds of keys, as during a switch-over."""
    return WeChat(
        mchid=MCHID,
        appids=[APPID, "wx_the_other_app"],
        apiv3_key=keys.apiv3_key,
        keys=public_key(keys.public_key_id, (keys.folder / "public_key.pem").read_bytes())
        | certificates(path.read_bytes() for path in Path(keys.folder / "certificates").glob("*.pem")),
    )


@pytest.fixture(scope="session")
def alipay_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an Alipay simulator, with its keys."""
    state = tmp_path_factory.mktemp("alipay")
    alipay_keys.prepare(state)
    return state


@pytest.fixture(scope="session")
def alipay(alipay_state: Path) -> alipay_keys.Keys:
    return alipay_keys.open_keys(alipay_state)
