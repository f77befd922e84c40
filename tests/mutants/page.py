"""docs/mutants.md, written from the table: `make docs`."""

from tests.rules.source import ROOT

from . import MUTANTS

PAGE = ROOT / "docs/mutants.md"
_HEAD = (
    "<!-- Written by tests/mutants/page.py from its neighbour's table. Change that, then run `make docs`. -->",
    "# Mutants of order-core",
    "",
    "Faults that order services have really had. `make mutants` puts each of them back into a copy of the tree and",
    "runs the test that is named here, which must fail (one that hangs is told apart); `make mutants MUTANTS=cursor`",
    "takes those with that word. The suite only sees that what a mutant changes still stands where it is looked for.",
    "",
    "| fault | caught by |",
    "|---|---|",
)


def page() -> str:
    rows = [f"| {mutant.name} | `{mutant.test.replace('|', '-')}` |" for mutant in MUTANTS]
    return "\n".join([*_HEAD, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
