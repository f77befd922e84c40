"""What logistics-poller may be configured to, and what not."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from logistics_poller.settings import Kuaidi100Settings, LogisticsSettings


def test_tiers_are_per_courier_and_compressed_like_everything_else() -> None:
    plans = LogisticsSettings(tiers={"sf": [(6, 60), (72, 240)]}, time_factor=60).plans()
    assert plans.of("sf").tiers[0].every == timedelta(minutes=1)
    assert plans.of("zto").tiers[0].every == timedelta(seconds=30)


@pytest.mark.parametrize("tiers", [[], [(4, 29)], [(12, 60), (4, 60)]])
def test_tiers_that_would_lock_a_waybill_or_make_no_sense_are_refused(tiers: list[tuple[float, float]]) -> None:
    with pytest.raises(ValidationError):
        LogisticsSettings(tiers={"sf": tiers})


def test_recognition_has_a_host_of_its_own_unless_the_lab_says_otherwise() -> None:
    real = Kuaidi100Settings.model_validate({"customer": "c", "key": "k"})
    lab = Kuaidi100Settings.model_validate({"customer": "c", "key": "k", "base_url": "http://127.0.0.1:1"})
    assert real.recognition_base_url == "https://www.kuaidi100.com"
    assert lab.recognition_base_url == "http://127.0.0.1:1"
