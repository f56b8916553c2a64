#!/usr/bin/env python3
"""Print a table of a values.yaml: each leaf with its default and the text of its "# --" comment.

usage: scripts/chart_values.py VALUES   (run by scripts/chart.sh)
"""
import re
import sys

LINE = re.compile(r"^( *)([A-Za-z][\w-]*):(?: (.*))?$")


def rows(lines):
    path, text = [], ""
    for number, line in enumerate(lines):
        comment = re.match(r"^ *# -- (.*)$", line)
        if comment:
            text = comment[1]
            continue
        found = LINE.match(line)
        if not found:
            continue
        depth, value = len(found[1]) // 2, found[3]
        path[depth:] = [found[2]]
        below = lines[number + 1:number + 2]
        parent = not value and below and len(below[0]) - len(below[0].lstrip()) > len(found[1])
        if not parent or text:
            yield ".".join(path), value or "", text
        text = ""


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = file.read().split("\n")
    print("| Value | Default | |\n|---|---|---|")
    for key, value, text in rows(lines):
        shown = f"`{value}`" if value and value != '""' else ""
        print(f"| `{key}` | {shown} | {text} |".replace("|  |", "| |"))


main()
