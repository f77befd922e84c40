"""What takes too long for every commit, one after the other, with a summary: `make nightly`.

python -m tests.nightly [part of a name …]
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from orderloop_lab.campaigns import CAMPAIGNS

_SEED_OF_THE_DAY = int(time.strftime("%Y%m%d"))  # other runs every night, and each to be repeated by what is printed


def steps() -> dict[str, tuple[str, ...]]:
    """Commands by name."""
    lab = (sys.executable, "-m", "orderloop_lab", "campaign")
    campaigns = {
        f"campaign {name}, {one.usual} {one.counts}": (
            *lab,
            name,
            "--n",
            str(one.usual),
            "--seed",
            str(_SEED_OF_THE_DAY),
        )
        for name, one in CAMPAIGNS.items()
    }
    outages = (
        *("env", "ORDERLOOP_TEST_KAFKA_AWAY_SECONDS=300", "ORDERLOOP_TEST_POSTGRES_AWAY_SECONDS=60"),
        *(sys.executable, "-m", "pytest", "-q"),
        *("tests/e2e/test_callbacks_without_kafka.py", "tests/e2e/test_recovery.py"),
    )
    life = (sys.executable, "-m", "pytest", "-q", "--hypothesis-profile=nightly", "tests/order_core/test_life.py")
    # some 20 GB of disk for a while
    bench = (sys.executable, "-m", "tests.bench", "payments", "lives", "--existing", "10000000")
    return {
        **campaigns,
        "outages": outages,
        "an order's life, 15,000 times": life,
        "bench beside 10 million orders": (*bench, "--out", "build/bench-nightly.json"),
        "mutants": (sys.executable, "-m", "tests.mutants"),
    }


def main(wanted: Sequence[str]) -> int:
    """1 if any of them failed."""
    summary: list[str] = []
    failed = 0
    for name, command in steps().items():
        if wanted and not any(part in name for part in wanted):
            continue
        print(f"=== {name}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        failed += code != 0
        summary.append(
            f"{'ok' if code == 0 else f'FAILED ({code})':12} {(time.monotonic() - began) / 60:6.1f} min  {name}"
        )
    print("=== summary", *summary, sep="\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
