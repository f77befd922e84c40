import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
from orderloop.failpoints import failpoint
for n in range(3):
    failpoint("here")
    failpoint("there")
    print(n, flush=True)
"""


def run(plan: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"FAILPOINT": plan},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("plan", "printed", "code"),
    [
        ("", "0\n1\n2\n", 0),
        ("elsewhere:kill@1", "0\n1\n2\n", 0),
        ("here:kill", "", -9),
        ("here:kill@2", "0\n", -9),
        ("there:exit@3", "0\n1\n", 70),
        ("here:raise@2,there:kill@3", "0\n", 1),
    ],
)
def test_it_fails_at_the_named_visit_of_the_named_place(plan: str, printed: str, code: int) -> None:
    process = run(plan)

    assert (process.stdout, process.returncode) == (printed, code)


def test_a_plan_that_cannot_be_meant_is_refused_at_once() -> None:
    assert "the action is kill, exit, hang, stop or raise" in run("here:explode").stderr


def test_hanging_stops_the_whole_process_as_a_freeze_does() -> None:
    hanging = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={"FAILPOINT": "here:hang@2"}, stdout=subprocess.PIPE
    )
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == b"0\n"

    with pytest.raises(subprocess.TimeoutExpired):
        hanging.wait(0.3)

    hanging.kill()
    hanging.communicate()


def test_who_is_stopped_goes_on_when_told_to() -> None:
    stopped = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={"FAILPOINT": "here:stop@2"}, stdout=subprocess.PIPE
    )
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == b"0\n"
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)

    stopped.send_signal(signal.SIGCONT)

    assert stopped.communicate(timeout=30)[0] == b"1\n2\n"
    assert stopped.returncode == 0
