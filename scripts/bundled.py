#!/usr/bin/env python3
"""Say what the program is made of, from Cargo's own metadata and the crates' own files.

usage: scripts/bundled.py sbom       a bill of materials on stdout: CycloneDX 1.6, JSON (run by make sbom)
       scripts/bundled.py licenses   the licence texts of all crates in the program, on stdout (run by make licenses)

Both list what `cargo build --features cli` links for Linux. Crates that only build it are in the bill of materials, as
excluded; crates that only test it are in neither. The same Cargo.lock gives the same bytes: there is no time in them, and
no path of this machine.
"""
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid

TARGETS = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"]
TEXTS = re.compile(r"^(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "cli"]
    command += [part for target in TARGETS for part in ("--filter-platform", target)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def parts(found):
    """The program's package, what it links, and what only builds it: id → package."""
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]

    def reach(kinds):
        seen, waiting = set(), [root]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += [dep["pkg"] for dep in nodes[node]["deps"]
                            if {kind["kind"] for kind in dep["dep_kinds"]} & kinds]
        return seen - {root}

    def makes_code_only(package):
        return any("proc-macro" in target["kind"] for target in package["targets"])

    linked = through(root, nodes, packages, makes_code_only) - {root}
    building = reach({None, "build"}) - linked
    return packages[root], {id: packages[id] for id in linked}, {id: packages[id] for id in building}, nodes


def through(root, nodes, packages, stops):
    """What is reached by normal dependencies without passing a crate of macros."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node in seen or (node != root and stops(packages[node])):
            continue
        seen.add(node)
        waiting += [dep["pkg"] for dep in nodes[node]["deps"] if None in {kind["kind"] for kind in dep["dep_kinds"]}]
    return seen


def checksums():
    with open("Cargo.lock", encoding="utf-8") as file:
        blocks = file.read().split("[[package]]")
    found = {}
    for block in blocks[1:]:
        values = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.MULTILINE))
        if "checksum" in values:
            found[values["name"], values["version"]] = values["checksum"]
    return found


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, scope, sums):
    found = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"],
             "scope": scope, "purl": purl(package)}
    if package.get("description"):
        found["description"] = " ".join(package["description"].split())
    if package.get("license"):
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository"):
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def sbom(found):
    root, linked, building, nodes = parts(found)
    sums, everything = checksums(), linked | building
    program = component(root, "required", sums) | {"type": "application"}
    program.pop("scope")
    components = [component(package, "required" if id in linked else "excluded", sums)
                  for id, package in everything.items()]
    known = everything | {root["id"]: root}
    dependencies = [{"ref": purl(package),
                     "dependsOn": sorted({purl(known[dep["pkg"]]) for dep in nodes[id]["deps"] if dep["pkg"] in known})}
                    for id, package in known.items()]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": program},
        "components": sorted(components, key=lambda c: c["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    text = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(hashlib.sha256(text.encode()).hexdigest()[:32], version=4)}"
    print(json.dumps(bom, indent=1, sort_keys=True, ensure_ascii=False))


def licenses(found):
    root, linked, _, _ = parts(found)
    print(f"The program {root['name']} {root['version']} is under {root['license']}. It contains the crates below, each "
          "under its own licence.\nThe same text of several crates is here once.")
    texts, silent = {}, []
    for package in sorted(linked.values(), key=purl):
        folder = os.path.dirname(package["manifest_path"])
        files = [name for name in sorted(os.listdir(folder)) if TEXTS.match(name) and os.path.isfile(f"{folder}/{name}")]
        title = f"{package['name']} {package['version']} ({package['license'] or 'see its file'})"
        if not files:
            silent.append(title)
        for name in files:
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                text = "\n".join(line.rstrip() for line in file.read().strip().splitlines())
            texts.setdefault(text, []).append(f"{title}, {name}")
    for text, titles in sorted(texts.items(), key=lambda item: item[1]):
        print("\n" + "=" * 100 + "\n" + "\n".join(titles) + "\n" + "-" * 100 + "\n" + text)
    if silent:
        print("\n" + "=" * 100 + "\nThese crates name a licence and ship no text of it:\n" + "\n".join(silent))


def main():
    what = {"sbom": sbom, "licenses": licenses}.get(" ".join(sys.argv[1:]))
    if not what:
        sys.exit("usage: scripts/bundled.py sbom|licenses")
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    what(metadata())


main()
