#!/usr/bin/env python3
"""Hold src/ to the house's measure: sizes, feature gates, and which file may import which.

usage: scripts/lint_layout.py [--edges | --self-test]   (run by make lint)

Sizes. A file has at most 300 lines before its tests (`#[cfg(test)]` on a module), a function at most 70 lines from
`fn` to its closing brace, a line at most 120 columns. `cfg(feature …)` stands in src/lib.rs only.

Imports. A file imports another file when its code, without comments, texts and test modules, names an item of that
file by a path: in `use` (nested groups too), or in the code (`crate::a::b()`, `super::C`, `child::d()`, or through a
module that a `use` brought in). A path ends at the file in which the item is written: a re-export is followed.

What a parent module owes its children is therefore this:
  - `mod child;` is no import;
  - `pub use child::Item;` is no import either: whoever says `parent::Item` imports child, and parent does not;
  - a parent that itself uses `child::Item` in its code imports child, as any other file does.
So a parent that only declares and re-exports can be in no circle, and one that calls its children can be, when a
child uses an item that is written in the parent's own file.

Two rules are checked on these imports:
  - no circle: the graph of files has no cycle;
  - no import runs up: see LAYERS and NEVER.
"""
import os
import re
import sys
import unittest
from collections import defaultdict

FILE_LINES = 300
FUNCTION_LINES = 70
COLUMNS = 120

# From the bottom to the top. A room may import its own row and the rows above it in this table. A room is a file or a
# folder of src with all that is in it; where two names fit a file, the longer one counts.
LAYERS = [
    ["error", "job", "reason"],
    ["connect", "statement", "migrate", "hints"],
    ["session"],
    ["listen", "queue"],
    ["maintenance", "worker"],
    ["schedule", "catalog"],
    ["cluster", "metrics", "local_postgres"],
    ["http", "launch", "controller"],
    ["console", "simulate", "bench"],
    ["cli"],
    ["lib", "main"],
]
# Room to rooms that it never imports, beside what the rows say.
NEVER = {
    "worker": ["launch", "catalog", "schedule", "cluster", "controller"],
    "launch": ["controller"],
    "controller": ["launch"],
}
# These files are pure: neither they nor what they import may use these crates.
PURE = ["controller/decide.rs", "controller/need.rs"]
CRATES_OF_IO = ["kube", "k8s_openapi", "tokio_postgres", "deadpool_postgres", "tokio", "axum"]


# ---- Reading Rust -----------------------------------------------------------------------------------------------

# One alternative each: comments, raw texts, texts, characters (a lifetime has no second quote).
SKIPPED = re.compile(
    r"""//[^\n]*|(?P<block>/\*)|\bb?c?r(?P<hashes>\#*)"|\b[bc]?"(?:\\.|[^"\\])*"|"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|x[0-9a-fA-F]{2}|.)|[^'\\\n])'""",
    re.DOTALL,
)


def bare(text):
    """The code alone: comments, texts and characters become blanks, so that lines and columns stay."""
    out, at = [], 0
    while found := SKIPPED.search(text, at):
        start, end = found.span()
        if found["block"]:
            depth = 1
            while depth and end < len(text):
                if text.startswith("/*", end):
                    depth, end = depth + 1, end + 2
                elif text.startswith("*/", end):
                    depth, end = depth - 1, end + 2
                else:
                    end += 1
        elif found["hashes"] is not None:
            close = '"' + found["hashes"]
            end = text.find(close, end)
            end = len(text) if end < 0 else end + len(close)
        out += [text[at:start], re.sub(r"[^\n]", " ", text[start:end])]
        at = end
    return "".join(out) + text[at:]


def closing(code, start):
    """The place after the brace that closes the one at `start`."""
    depth = 0
    for place in range(start, len(code)):
        if code[place] == "{":
            depth += 1
        elif code[place] == "}":
            depth -= 1
            if depth == 0:
                return place + 1
    return len(code)


TEST_ITEM = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]\s*(?:#\[[^\]]*\]\s*)*(?P<item>[^;{]*)(?P<end>[;{])")


def without_tests(code):
    """The code with items that only tests have blanked out, and the line on which a module of tests begins."""
    first = None
    for found in list(TEST_ITEM.finditer(code)):
        end = found.end() if found["end"] == ";" else closing(code, found.end() - 1)
        if re.match(r"(pub(\([^)]*\))? )?mod\b", found["item"]) and first is None:
            first = code.count("\n", 0, found.start()) + 1
        code = code[:found.start()] + re.sub(r"[^\n]", " ", code[found.start():end]) + code[end:]
    return code, first


def functions(code):
    """Each function with a body: its name, its line, how many lines it has."""
    for found in re.finditer(r"\bfn\s+(\w+)", code):
        depth, place = 0, found.end()
        while place < len(code) and (depth or code[place] not in "{;"):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(code[place], 0)
            place += 1
        if place < len(code) and code[place] == "{":
            lines = code.count("\n", found.start(), closing(code, place)) + 1
            yield found[1], code.count("\n", 0, found.start()) + 1, lines


TOKEN = re.compile(r"::|[A-Za-z_]\w*|[{},*;]")


def tree(tokens, prefix):
    """The paths of one use tree: (segments, the name it brings or None for `*`)."""
    path = list(prefix)
    while tokens:
        token = tokens.pop(0)
        if token == "::":
            continue
        if token == "{":
            while tokens and tokens[0] != "}":
                yield from tree(tokens, path)
                if tokens and tokens[0] == ",":
                    tokens.pop(0)
            if tokens:
                tokens.pop(0)
            return
        if token == "*":
            yield path, None
            return
        if token == "as":
            name = tokens.pop(0)
            yield path, name
            return
        if token in ",;}":
            tokens.insert(0, token)
            break
        if token == "self" and path:
            continue  # `a::{self}` is `a`; at the front it says "from here" and stays
        path.append(token)
    if path:
        yield path, path[-1]


USE = re.compile(r"(?P<pub>\bpub(?:\s*\([^)]*\))?\s+)?\buse\s+(?P<tree>[^;]*);")


def uses(code):
    """Each path that `use` names: (segments, name or None, whether it is handed on, line)."""
    for found in USE.finditer(code):
        line = code.count("\n", 0, found.start()) + 1
        for path, name in tree(TOKEN.findall(found["tree"]) + [";"], []):
            yield path, name, bool(found["pub"]), line


# ---- The modules ------------------------------------------------------------------------------------------------


class Module:
    def __init__(self, path, file, text):
        self.path, self.file, self.text = path, file, text
        self.code, self.tests = without_tests(bare(text))
        self.names = {}  # what its use statements bring: name → segments
        self.globs = []  # paths whose content they bring
        self.handed_on = set()
        for segments, name, public, _ in uses(self.code):
            if name is None:
                self.globs.append(segments)
            elif name != "_":
                self.names[name] = segments
                if public:
                    self.handed_on.add(name)


def module_path(file):
    """`worker/launch/mod.rs` and `worker/launch.rs` are both ("worker", "launch"); lib.rs is ()."""
    parts = file.removesuffix(".rs").split("/")
    if parts[-1] == "mod":
        parts.pop()
    return () if parts == ["lib"] else tuple(parts)


class House:
    def __init__(self, files):
        """files: path under src → text."""
        self.modules = {}
        for file, text in sorted(files.items()):
            module = Module(module_path(file), file, text)
            self.modules[module.path] = module

    def resolve(self, segments, at, seen=frozenset()):
        """The module in which what `segments` names from module `at` is written, or None: another crate's."""
        segments = list(segments)
        first, rest = segments[0], segments[1:]
        if first in ("crate", "rowlock"):
            return self.down((), rest, seen)
        if first == "self":
            return self.down(at, rest, seen)
        if first == "super":
            while rest and rest[0] == "super":
                at, rest = at[:-1], rest[1:]
            return self.down(at[:-1], rest, seen)
        if at + (first,) in self.modules or first in self.modules[at].names:
            return self.down(at, segments, seen)
        return None

    def down(self, at, segments, seen):
        if not segments:
            return at
        first, rest = segments[0], segments[1:]
        if at + (first,) in self.modules:
            return self.down(at + (first,), rest, seen)
        module = self.modules.get(at)
        if module is None or (at, first) in seen:
            return at
        seen = seen | {(at, first)}
        if first in module.names:
            target = self.resolve(module.names[first] + rest, at, seen)
            return target  # None: it comes from another crate
        for glob in module.globs:
            target = self.resolve(glob, at, seen)
            if target is not None and target != at and self.writes(target, first):
                return self.down(target, segments, seen)
        return at

    def writes(self, path, name):
        """Whether the module has an item of this name, its own or handed on."""
        module = self.modules[path]
        item = rf"\b(?:fn|struct|enum|union|trait|type|const|static|mod|macro_rules!)\s+(?:mut\s+)?{name}\b"
        return name in module.handed_on or re.search(item, module.code) is not None

    def imports(self, module):
        """Each import of a module: (the module whose item it names, line, the path as written)."""
        outside = re.sub(r"\b(pub\s*\(in[^)]*\)|use\s[^;]*;)", lambda found: re.sub(r"[^\n]", " ", found[0]), module.code)
        words = set(re.findall(r"\w+", outside))
        for segments, name, public, line in uses(module.code):
            if public and name is not None and name not in words:
                continue  # only handed on
            if public and name is None:
                continue
            target = self.resolve(segments, module.path)
            # What a `use` of a module brings is charged where the code says `module::item`.
            if target is not None and target != module.path and not self.is_module(segments, module.path):
                yield target, line, "::".join(segments)
        for found in re.finditer(r"(?<![\w:.$])([A-Za-z_]\w*(?:\s*::\s*[A-Za-z_]\w*)+)", outside):
            segments = re.split(r"\s*::\s*", found[1])
            target = self.resolve(segments, module.path)
            if target is not None and target != module.path:
                yield target, outside.count("\n", 0, found.start()) + 1, "::".join(segments)

    def is_module(self, segments, at):
        """Whether a path names a module and nothing in it."""
        target = self.resolve(segments, at)
        return target is not None and (target == () or segments[-1] in (target[-1], "self", "super", "crate"))

    def crates(self, module):
        """The other crates that a module names: (crate, line)."""
        for segments, _, _, line in uses(module.code):
            yield segments[0], line
        for found in re.finditer(r"(?<![\w:.$])([a-z_]\w*)\s*::", module.code):
            yield found[1], module.code.count("\n", 0, found.start()) + 1

    def edges(self):
        """file → file it imports → [(line, path)]"""
        found = defaultdict(lambda: defaultdict(list))
        for module in self.modules.values():
            for target, line, path in self.imports(module):
                found[module.file][self.modules[target].file].append((line, path))
        return found


def circles(edges):
    """The strongly connected sets of more than one file (Tarjan, without recursion)."""
    index, low, stack, on, found = {}, {}, [], set(), []
    for root in list(edges):
        if root in index:
            continue
        work = [(root, iter(edges.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on.add(target)
                    work.append((target, iter(edges.get(target, ()))))
                    break
                if target in on:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    members = set()
                    while True:
                        member = stack.pop()
                        on.discard(member)
                        members.add(member)
                        if member == node:
                            break
                    if len(members) > 1:
                        found.append(sorted(members))
    return found


# ---- The rules --------------------------------------------------------------------------------------------------


ROW = {name: number for number, names in enumerate(LAYERS) for name in names}


def room(file):
    """The name in LAYERS that fits a file, else its first part."""
    parts = file.removesuffix(".rs").split("/")
    names = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROW), parts[0])


def sizes(house):
    for module in house.modules.values():
        lines = module.text.split("\n")
        count = module.tests - 1 if module.tests else len(lines) - 1
        if count > FILE_LINES:
            yield module.file, 1, f"{count} lines before its tests, {FILE_LINES} at most: split it by sense"
        for number, line in enumerate(lines, 1):
            # A link cannot be broken.
            if len(line) > COLUMNS and "https://" not in line:
                yield module.file, number, f"{len(line)} columns, {COLUMNS} at most"
        for name, line, length in functions(module.code):
            if length > FUNCTION_LINES:
                yield module.file, line, f"fn {name} has {length} lines, {FUNCTION_LINES} at most"
        if module.file != "lib.rs":
            # From the text: the feature's name is a text, which bare() takes out; its attribute is code.
            for number, (line, code) in enumerate(zip(lines, bare(module.text).split("\n")), 1):
                if re.search(r"\bcfg(_attr)?!?\s*\(.*\bfeature\b", code) and "feature" in line:
                    yield module.file, number, "cfg(feature) stands in src/lib.rs only"


def layers(house, edges):
    for module in house.modules.values():
        if room(module.file) not in ROW:
            yield module.file, 1, f"no row for {room(module.file)} in LAYERS of scripts/lint_layout.py"
    for source, targets in edges.items():
        for target, places in targets.items():
            above, below = room(source), room(target)
            if above == below or above not in ROW or below not in ROW:
                continue
            line, path = places[0]
            if ROW[below] > ROW[above]:
                yield source, line, f"{path} runs up: {above} is below {below}"
            elif below in NEVER.get(above, ()):
                yield source, line, f"{path}: {above} never imports {below}"


def purity(house, edges):
    by_file = {module.file: module for module in house.modules.values()}
    for start in PURE:
        if start not in by_file:
            yield start, 1, "is in PURE of scripts/lint_layout.py, but not in src"
            continue
        way, waiting = {start: None}, [start]
        while waiting:
            file = waiting.pop()
            for crate, line in house.crates(by_file[file]):
                if crate in CRATES_OF_IO:
                    via = "" if file == start else f" (imported by {start})"
                    yield file, line, f"uses {crate}{via}: what decides does no I/O"
            for target in edges.get(file, ()):
                if target not in way:
                    way[target] = file
                    waiting.append(target)


def shortest(start, members, edges):
    """The shortest way from a file back to itself, inside its circle."""
    ways = [[start]]
    for way in ways:  # grows while it is read: breadth first
        for target in sorted(edges[way[-1]]):
            if target == start:
                return way
            if target in members and target not in way:
                ways.append(way + [target])
    return []


def rounds(edges):
    for members in circles(edges):
        told = set()
        for start in members:
            way = shortest(start, members, edges)
            if frozenset(way) in told:
                continue
            told.add(frozenset(way))
            steps = [f"{a} imports {b} ({edges[a][b][0][1]}, line {edges[a][b][0][0]})" for a, b in zip(way, way[1:] + way[:1])]
            yield start, 1, f"circle, one of {len(members)} files that import each other: " + ", ".join(steps)


def problems(files):
    house = House(files)
    edges = house.edges()
    for rule in (sizes(house), layers(house, edges), purity(house, edges), rounds(edges)):
        yield from sorted(set(rule))


# ---- Its own tests ----------------------------------------------------------------------------------------------


class Tests(unittest.TestCase):
    def edges(self, **files):
        return {a: sorted(b) for a, b in House({k.replace("__", "/") + ".rs": v for k, v in files.items()}).edges().items()}

    def test_code_is_bare_of_comments_and_texts_and_keeps_its_lines(self):
        text = 'a /* x /* y */\n z */ b // c\n"q\\"{" r#"}"{"# \'{\' \'\\\'\' fn<\'a>(&\'a str) b"}"\n'
        code = bare(text)
        self.assertEqual(code.count("\n"), text.count("\n"))
        self.assertEqual(code.split(), ["a", "b", "fn<'a>(&'a", "str)"])

    def test_a_use_tree_is_read_with_its_groups(self):
        code = "use crate::{a::{self, b::C as D, E}, f::*};\npub(crate) use super::super::g;"
        self.assertEqual(list(uses(code)), [
            (["crate", "a"], "a", False, 1), (["crate", "a", "b", "C"], "D", False, 1), (["crate", "a", "E"], "E", False, 1),
            (["crate", "f"], None, False, 1), (["super", "super", "g"], "g", True, 2),
        ])

    def test_tests_are_left_out(self):
        code, first = without_tests("fn a() {}\n#[cfg(test)]\nfn b() { c::d() }\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n use e::f; }\n")
        self.assertEqual((code.split(), first), (["fn", "a()", "{}"], 4))

    def test_a_function_is_measured_to_its_closing_brace(self):
        code = "trait T { fn none(&self); }\nfn a(x: [u8; 2]) -> B\nwhere C: D {\n  if e {\n  }\n}\n"
        self.assertEqual(list(functions(code)), [("a", 2, 5)])

    def test_a_path_ends_where_the_item_is_written(self):
        self.assertEqual(self.edges(lib="pub mod a;\npub use a::b::C;", a__mod="pub mod b;", a__b="pub struct C;",
                                    d="use crate::C;\nuse crate::a::b::C as E;"), {"d.rs": ["a/b.rs"]})

    def test_a_parent_that_declares_and_hands_on_imports_nothing(self):
        self.assertEqual(self.edges(a="mod b;\nmod c;\npub use b::B;", a__b="pub struct B;", a__c="use super::B;"),
                         {"a/c.rs": ["a/b.rs"]})

    def test_a_parent_that_uses_what_it_hands_on_imports_it(self):
        found = self.edges(a="mod b;\npub use b::B;\nfn f() -> B { B }", a__b="pub struct B;\nuse super::f;")
        self.assertEqual(found, {"a.rs": ["a/b.rs"], "a/b.rs": ["a.rs"]})

    def test_paths_in_the_code_count_also_through_a_module_that_use_brought(self):
        found = self.edges(a="use crate::b;\nfn f() { b::c::g(); crate::d::h(); std::x::y(); i.b::<c>() }",
                           b="pub mod c;", b__c="pub fn g() {}", d="pub fn h() {}")
        self.assertEqual(found, {"a.rs": ["b/c.rs", "d.rs"]})

    def test_a_name_that_another_crate_gave_is_none_of_ours(self):
        self.assertEqual(self.edges(a="use kube::b;\nfn f() { b::c() }", b="pub fn c() {}", lib=""), {})

    def test_a_glob_is_followed_to_what_it_brings(self):
        found = self.edges(a="mod b;\npub use b::*;", a__b="pub fn c() {}", d="use crate::a::c;")
        self.assertEqual(found, {"d.rs": ["a/b.rs"]})

    def test_circles_are_found(self):
        self.assertEqual(circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}), [["b", "c"]])

    def test_each_rule_refuses(self):
        files = {
            "lib.rs": '#[cfg(feature = "cli")]\nmod cli;\n', "job.rs": "use crate::cli::X;\n", "cli.rs": "pub struct X;\n",
            "worker.rs": '#[cfg(feature = "cli")]\nuse crate::launch::L;\n' + "fn f() {\n" + "\n" * 70 + "}\n" + "//\n" * 300,
            "launch.rs": "pub struct L;\n// " + "x" * 120 + "\n", "odd.rs": "",
            "controller/decide.rs": "use crate::controller::p::P;\n", "controller/need.rs": "",
            "controller/p.rs": "use tokio_postgres::Row;\npub struct P;\nuse super::decide::D;\n", "controller/mod.rs": "",
        }
        said = "\n".join(f"{file}:{line}: {what}" for file, line, what in problems(files))
        for part in ("job.rs:1: crate::cli::X runs up", "worker.rs:1: 374 lines before", "worker.rs:3: fn f has 72 lines",
                     "worker.rs:1: cfg(feature)", "worker.rs:2: crate::launch::L runs up", "launch.rs:2: 123 columns",
                     "odd.rs:1: no row for odd", "controller/p.rs:1: uses tokio_postgres", "one of 2 files that import each other"):
            self.assertIn(part, said)
        self.assertNotIn("\nlib.rs", "\n" + said)

    def test_launch_and_controller_never_meet(self):
        files = {"launch.rs": "use crate::controller::need::N;\npub struct L;\n", "controller/need.rs": "pub struct N;\n",
                 "lib.rs": "", "controller/mod.rs": "", "controller/decide.rs": "use crate::launch::L;\n"}
        said = [what for _, _, what in problems(files) if "never" in what]
        self.assertEqual(said, ["crate::launch::L: controller never imports launch",
                                "crate::controller::need::N: launch never imports controller"])


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src"))
    files = {}
    for folder, _, names in os.walk("."):
        for name in names:
            if name.endswith(".rs"):
                path = os.path.relpath(os.path.join(folder, name), ".")
                with open(path, encoding="utf-8") as file:
                    files[path] = file.read()
    if sys.argv[1:] == ["--edges"]:
        for source, targets in sorted(House(files).edges().items()):
            print(source, "→", ", ".join(sorted(targets)))
        return 0
    found = list(problems(files))
    for file, line, what in found:
        print(f"src/{file}:{line}: {what}", file=sys.stderr)
    if found:
        print(f"lint_layout: {len(found)} places break the house's measure (rules: CONTRIBUTING.md)", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        unittest.main(argv=sys.argv[:1])
    if sys.argv[1:] not in ([], ["--edges"]):
        sys.exit("usage: scripts/lint_layout.py [--edges | --self-test]")
    sys.exit(main())
