# SPDX-License-Identifier: Apache-2.0
"""Write the parts of the README that are generated.

python scripts/update_readme.py [--benchmark TABLE.md] [--families TABLE.md] [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from appliance.configuration import describe_settings

README = Path(__file__).parent.parent / "README.md"


def replace_part(text: str, name: str, content: str) -> str:
    """Put content between the two marks of a part."""
    head, mark, rest = text.partition(f"<!-- {name}: ")
    first_line, _, rest = rest.partition("\n")
    _, end, tail = rest.partition(f"<!-- end of {name} -->")
    if not mark or not end:
        raise ValueError(f"the README has no part {name!r}")
    return f"{head}{mark}{first_line}\n{content.strip()}\n{end}{tail}"


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the README.")
    parser.add_argument("--benchmark", type=Path, help="table that scripts/bench.py wrote")
    parser.add_argument("--families", type=Path, help="table that scripts/family_table.py wrote")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    arguments = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = replace_part(before, "settings", describe_settings())
    for part in ("benchmark", "families"):
        if path := getattr(arguments, part):
            after = replace_part(after, part, path.read_text(encoding="utf-8"))
    if arguments.check:
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
