#!/usr/bin/env python3
"""Measures the SQL of migrations/ and schema/: lines of at most 120 columns, functions of at most 70 lines."""

import pathlib
import re
import sys

COLUMNS, LINES = 120, 70
FUNCTION = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION rowlock\.(\w+)")


def problems(path):
    name, began = None, 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if len(line) > COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, at most {COLUMNS}"
        if found := FUNCTION.match(line):
            name, began = found[1], number
        # A body ends where its quote does, alone or behind END.
        if name and re.fullmatch(r"(END )?\$\$;", line):
            if number - began + 1 > LINES:
                yield f"{path}:{began}: function {name} has {number - began + 1} lines, at most {LINES}"
            name = None


root = pathlib.Path(__file__).resolve().parent.parent
found = [p for d in ("migrations", "schema") for f in sorted((root / d).glob("*.sql")) for p in problems(f)]
print("\n".join(found), file=sys.stderr, end="\n" if found else "")
sys.exit(bool(found))
