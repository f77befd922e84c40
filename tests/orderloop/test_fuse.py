from orderloop.fuse import Fuse


def test_twenty_parked_in_a_row_blow_it() -> None:
    fuse = Fuse()
    for _ in range(19):
        fuse.parked()
    assert not fuse.blown

    fuse.parked()

    assert fuse.blown


def test_one_good_event_in_between_starts_the_row_anew() -> None:
    fuse = Fuse()
    for _ in range(5):
        for _ in range(19):
            fuse.parked()
        fuse.passed(1)

    assert not fuse.blown


def test_more_than_one_in_a_hundred_blow_it() -> None:
    fuse = Fuse()
    for _ in range(60):
        fuse.passed(50)
        fuse.parked()

    assert fuse.blown


def test_one_in_two_hundred_is_bearable_for_ever() -> None:
    fuse = Fuse()
    for _ in range(2000):
        fuse.passed(199)
        fuse.parked()

    assert not fuse.blown


def test_a_good_past_does_not_pay_for_a_bad_present() -> None:
    fuse = Fuse()
    fuse.passed(1_000_000)
    for _ in range(400):
        fuse.passed(20)
        fuse.parked()

    assert fuse.blown


def test_once_blown_it_stays_so() -> None:
    fuse = Fuse()
    for _ in range(20):
        fuse.parked()

    fuse.passed(100_000)

    assert fuse.blown
