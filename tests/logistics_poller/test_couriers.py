"""What couriers' codes mean, and what an unreadable answer does not."""

import base64
import hashlib
import json
from typing import Any

import pytest

from logistics_poller.couriers import kuaidi100, zto
from logistics_poller.couriers.breaker import Breaker
from logistics_poller.couriers.courier import CourierTrouble, Trouble
from logistics_poller.tracks import Track
from orderloop.events import ParcelStatus

S = ParcelStatus


def read_kuaidi100(answer: dict[str, Any] | str) -> Track:
    body = answer if isinstance(answer, str) else json.dumps(answer)
    return kuaidi100.read_track(body.encode(), "YT1", asked_as="yuantong")


def read_zto(answer: dict[str, Any] | str) -> Track:
    return zto.read_track((answer if isinstance(answer, str) else json.dumps(answer)).encode(), "78001")


def entry(code: str | None) -> dict[str, Any]:
    return {"ftime": "2026-01-22 10:00:00", "context": "x", "statusCode": code}


def ok(*codes: str | None, **more: Any) -> dict[str, Any]:
    return {"message": "ok", "nu": "YT1", "com": "yuantong", "status": "200", "data": [entry(c) for c in codes]} | more


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1", S.PICKED_UP),
        ("103", S.PICKED_UP),
        ("101", S.LABEL_PRINTED),  # ordered: in the group "collected", and not collected
        ("102", S.LABEL_PRINTED),  # waiting to be collected
        ("0", S.IN_TRANSIT),
        ("1002", S.IN_TRANSIT),
        ("5", S.DELIVERING),
        ("501", S.DELIVERING),
        ("3", S.DELIVERED),
        ("304", S.DELIVERED),
        ("6", S.RETURNED),
        ("2", S.EXCEPTION),
        ("209", S.EXCEPTION),
        ("4711", None),
        (None, None),
    ],
)
def test_kuaidi100s_codes(code: str | None, status: ParcelStatus | None) -> None:
    assert read_kuaidi100(ok(code)).scans[0].status is status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("收件", S.PICKED_UP),
        (1, S.PICKED_UP),
        ("GOT", S.PICKED_UP),
        ("下单", None),
        ("发件", S.IN_TRANSIT),
        ("到件", S.IN_TRANSIT),
        ("派件", S.DELIVERING),
        ("签收", S.DELIVERED),
        ("退件", S.RETURNED),
        ("问题件", S.EXCEPTION),
        ("安检", None),
    ],
)
def test_ztos_codes(code: str | int, status: ParcelStatus | None) -> None:
    answer = {"status": True, "result": [{"billCode": "78001", "scanType": code, "scanDate": 1_769_000_000_000}]}
    assert read_zto(answer).scans[0].status is status


def test_the_same_scan_has_the_same_time_from_either_source() -> None:
    """Kuaidi100 tells Beijing's time without an offset, ZTO milliseconds."""
    answer = {"status": True, "result": [{"scanType": "收件", "scanDate": 1_769_047_200_345}]}
    assert read_kuaidi100(ok("1")).scans[0].at.isoformat() == "2026-01-22T02:00:00+00:00"
    assert read_zto(answer).scans[0].at.isoformat() == "2026-01-22T02:00:00+00:00"


def test_a_corrected_courier_code_is_taken_over() -> None:
    assert read_kuaidi100(ok("1", com="zhongtong")).recognised_as == "zhongtong"


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        ("<html><body>maintenance</body></html>", Trouble.UNREADABLE),
        ("", Trouble.UNREADABLE),
        ("[]", Trouble.UNREADABLE),
        ({"result": False, "returnCode": "400", "message": "x"}, Trouble.REFUSED),
        ({"result": False, "returnCode": "408", "message": "x"}, Trouble.REFUSED),
        ({"result": False, "returnCode": "501", "message": "x"}, Trouble.BUSY),
        ({"result": False, "returnCode": "502", "message": "x"}, Trouble.BUSY),
        ({"result": False, "returnCode": "503", "message": "x"}, Trouble.MISCONFIGURED),
        ({"result": False, "returnCode": "601", "message": "x"}, Trouble.MISCONFIGURED),
        ({"result": False, "returnCode": "403", "message": "该单号已锁单"}, Trouble.LOCKED),
        ({"result": False, "returnCode": "999", "message": "x"}, Trouble.BUSY),
        ({}, Trouble.BUSY),
        (ok("1", nu="YT2"), Trouble.UNREADABLE),
        (ok(data=[{"ftime": "yesterday", "statusCode": "3"}]), Trouble.UNREADABLE),
        (ok(data=None), Trouble.UNREADABLE),
    ],
)
def test_what_kuaidi100_says_instead_of_an_answer(answer: dict[str, Any] | str, trouble: Trouble) -> None:
    with pytest.raises(CourierTrouble) as caught:
        read_kuaidi100(answer)
    assert caught.value.trouble is trouble


@pytest.mark.parametrize(
    "answer",
    [
        "<html>",
        {"status": False, "result": None, "statusCode": "S201"},
        {"status": True, "result": [{"scanType": "签收", "scanDate": "soon"}]},
        {"status": True, "result": [{"scanType": "签收", "scanDate": 10**30}]},
    ],
)
def test_what_zto_says_instead_of_an_answer(answer: dict[str, Any] | str) -> None:
    with pytest.raises(CourierTrouble):
        read_zto(answer)


def test_nothing_found_is_an_answer_without_scans() -> None:
    assert read_kuaidi100({"result": False, "returnCode": "500", "message": "查询无结果"}).scans == ()
    assert read_zto({"status": True, "result": []}).scans == ()


def test_the_signatures_are_those_of_the_protocols() -> None:
    assert kuaidi100.signature('{"a":1}', key="K", customer="C") == hashlib.md5(b'{"a":1}KC').hexdigest().upper()
    # the hash check that YTO's documents publish for the same construction
    assert zto.digest(b"opentest", "123456") == base64.b64encode(hashlib.md5(b"opentest123456").digest()).decode()
    assert zto.digest(b"opentest", "123456") == "YLstCNa3x8ijQx16e/jqOA=="


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_through() -> None:
    seconds = 0.0
    breaker = Breaker(lambda: seconds, failures=3, rest=60)
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    assert not breaker.allows()
    seconds = 61
    assert breaker.allows()
    assert not breaker.allows()  # one try only
    breaker.failed()
    assert not breaker.allows()
    seconds = 130
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()
