#!/usr/bin/env python3
"""Lines, arrows, longest file and longest function of each crate, tests aside: `scripts/check/size.py [FOLDER OF A CHECKOUT]`.

A line counts if it is neither blank nor a comment. Lines of `#[cfg(test)]` modules, of `tests/`, `examples/` and `benches/` are
counted apart. The files must be formatted: a function ends at the brace that is indented like its head.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

HEAD = re.compile(r"^( *)(?:pub(?:\([a-z]+\))? )?(?:const |unsafe |async )*fn (\w+)")


def split_tests(lines):
    """Lines of code and lines of the test module, which is the last thing of a file."""
    for at, line in enumerate(lines):
        if line.startswith("#[cfg(test)]") and at + 1 < len(lines) and lines[at + 1].startswith("mod tests"):
            return lines[:at], lines[at:]
    return lines, []


def is_code(line):
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("//")


def longest_function(lines):
    longest, name = 0, ""
    for at, line in enumerate(lines):
        head = HEAD.match(line)
        signature_end = next((idx for idx in range(at, len(lines)) if lines[idx].rstrip().endswith(("{", "}", ";"))), at)
        if not head or lines[signature_end].rstrip().endswith(";"):
            continue
        end = next((idx for idx in range(at, len(lines)) if lines[idx].rstrip() in (head[1] + "}", head[1] + "};")), at)
        if end - at + 1 > longest:
            longest, name = end - at + 1, head[2]
    return longest, name


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"],
        cwd=root, capture_output=True, check=True, text=True,
    )
    totals, arrows_in_all = [0, 0], 0
    print(f"{'crate':<16} {'lines':>6} {'tests':>6} {'arrows':>6}  longest file, longest function")
    for package in sorted(json.loads(metadata.stdout)["packages"], key=lambda package: package["name"]):
        folder = Path(package["manifest_path"]).parent
        uses = {d["name"] for d in package["dependencies"] if d["kind"] is None and d["name"].startswith("sensei")}
        code, tests, longest_file, longest = 0, 0, (0, ""), (0, "", "")
        for path in sorted(folder.rglob("*.rs")):
            within = path.relative_to(folder)
            if folder.name == "tests" or within.parts[0] in ("tests", "examples", "benches"):
                tests += sum(map(is_code, path.read_text().splitlines()))
                continue
            ours, theirs = split_tests(path.read_text().splitlines())
            code, tests = code + sum(map(is_code, ours)), tests + sum(map(is_code, theirs))
            longest_file = max(longest_file, (len(ours), str(within)))
            found = longest_function(ours)
            longest = max(longest, (found[0], found[1], str(within)))
        totals, arrows_in_all = [totals[0] + code, totals[1] + tests], arrows_in_all + len(uses)
        print(
            f"{package['name']:<16} {code:>6} {tests:>6} {len(uses):>6}  "
            f"{longest_file[1]} {longest_file[0]}, {longest[1]} {longest[0]} ({longest[2]})"
        )
    print(f"{'all':<16} {totals[0]:>6} {totals[1]:>6} {arrows_in_all:>6}")


if __name__ == "__main__":
    main()
