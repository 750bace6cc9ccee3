# SPDX-License-Identifier: Apache-2.0
"""Write the parts of the README that are generated.

python scripts/update_readme.py [--benchmark TABLE.md --picture PLOT.png] [--families TABLE.md]
    [--clients TABLE.md] [--check]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from appliance.settings_reference import describe_settings
from appliance.tei_variables import describe_tei_variables

README = Path(__file__).parent.parent / "README.md"
PICTURE = Path(__file__).parent / "bench.png"


def replace_part(text: str, name: str, content: str) -> str:
    """Put content between the two marks of a part."""
    head, mark, rest = text.partition(f"<!-- {name}: ")
    first_line, _, rest = rest.partition("\n")
    _, end, tail = rest.partition(f"<!-- end of {name} -->")
    if not mark or not end:
        raise ValueError(f"the README has no part {name!r}")
    return f"{head}{mark}{first_line}\n{content.strip()}\n{end}{tail}"


def with_picture(table: str, picture: Path) -> str:
    """Keep a picture beside the scripts, and show it above the table."""
    if picture.resolve() != PICTURE:
        shutil.copyfile(picture, PICTURE)
    shown = PICTURE.relative_to(README.parent).as_posix()
    return f"![Tokens a second of this server and of others]({shown})\n\n{table}"


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the README.")
    parser.add_argument("--benchmark", type=Path, help="table that scripts/bench.py wrote")
    parser.add_argument("--picture", type=Path, help="plot of the same run, shown above the table")
    parser.add_argument("--families", type=Path, help="table that scripts/family_table.py wrote")
    parser.add_argument("--clients", type=Path, help="table that scripts/client_table.py wrote")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    arguments = parser.parse_args()
    if arguments.picture and not arguments.benchmark:
        parser.error("--picture goes with --benchmark: both come from one run")
    before = README.read_text(encoding="utf-8")
    after = replace_part(before, "settings", describe_settings())
    after = replace_part(after, "variables of TEI", describe_tei_variables())
    for part in ("benchmark", "families", "clients"):
        if path := getattr(arguments, part):
            table = path.read_text(encoding="utf-8")
            if part == "benchmark" and arguments.picture:
                table = with_picture(table, arguments.picture)
            after = replace_part(after, part, table)
    if arguments.check:
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
