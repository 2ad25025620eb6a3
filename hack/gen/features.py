#!/usr/bin/env python3
"""Writes features/Cargo.toml: every library that two of our crates would build with different features, with all of them.

    hack/gen/features.py        (after a dependency was added, removed or updated; needs cargo and the network)

Cargo builds a library once for each set of features it is asked for, and the set depends on which of our crates are
built together: `-p steersman-agent` and `-p steersman-dns` had some 200 libraries built twice. The crate that this
writes asks for the union, and every crate of ours depends on it, so that each library is built once, whatever is built.
"""

import json
import os
import re
import subprocess

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FILE = os.path.join(ROOT, "features", "Cargo.toml")
TARGET = "x86_64-unknown-linux-gnu"

HEAD = """# Written by hack/gen/features.py, which says why. No code of ours uses these lines.
[package]
name = "steersman-features"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true
build = "build.rs"

[lints]
workspace = true
"""


def metadata():
    """What cargo resolves when none of the lines below are there."""
    with open(FILE, "w") as out:
        out.write(HEAD)
    command = ["cargo", "metadata", "--format-version", "1", "--filter-platform", TARGET]
    return json.loads(subprocess.check_output(command, cwd=ROOT))


def reached(data):
    """The libraries built for the target, and those built for the build itself (build scripts, procedural macros)."""
    packages = {p["id"]: p for p in data["packages"]}
    nodes = {n["id"]: n for n in data["resolve"]["nodes"]}
    macro = {i for i, p in packages.items() if any("proc-macro" in t["kind"] for t in p["targets"])}
    seen = set()
    queue = [(member, False) for member in data["workspace_members"]]
    while queue:
        step = queue.pop()
        if step in seen:
            continue
        seen.add(step)
        package, host = step
        for dep in nodes[package]["deps"]:
            for kind in dep["dep_kinds"]:
                if kind["kind"] == "dev" and package not in data["workspace_members"]:
                    continue
                queue.append((dep["pkg"], host or kind["kind"] == "build" or dep["pkg"] in macro))
    return packages, nodes, seen


def varying():
    """`name version` of the libraries that come with more than one set of features, over all selections of our crates."""
    names = subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT)
    found = {}
    for package in json.loads(names)["packages"]:
        for edges in ("normal,build", "normal,build,dev"):
            command = ["cargo", "tree", "-p", package["name"], "-e", edges, "--prefix", "none", "-f", "{p} [{f}]"]
            for line in subprocess.check_output(command, cwd=ROOT, text=True).splitlines():
                match = re.match(r"(\S+) v(\S+)(?: \(.*\))? \[(.*)\]", line)
                if match:
                    found.setdefault((match[1], match[2]), set()).add(match[3])
    return {key for key, sets in found.items() if len(sets) > 1}


def lines(ids, packages, nodes, vary):
    chosen = [packages[i] for i in ids if (packages[i]["name"], packages[i]["version"]) in vary]
    names = [p["name"] for p in chosen]
    for package in sorted(chosen, key=lambda p: (p["name"], p["version"])):
        features = sorted(f for f in nodes[package["id"]]["features"] if f != "default")
        default = "default" in nodes[package["id"]]["features"]
        key, rename = package["name"], ""
        if names.count(key) > 1:
            key += "-" + package["version"].replace(".", "-")
            rename = f'package = "{package["name"]}", '
        wanted = f", features = {json.dumps(features)}" if features else ""
        version = re.sub(r"\+.*", "", package["version"])
        yield f'{key} = {{ {rename}version = "{version}"{"" if default else ", default-features = false"}{wanted} }}\n'


def main():
    packages, nodes, seen = reached(metadata())
    vary = varying()
    outside = lambda i: packages[i]["source"] is not None
    with open(FILE, "w") as out:
        out.write(HEAD)
        for title, host in (("dependencies", False), ("build-dependencies", True)):
            out.write(f"\n[{title}]\n")
            out.writelines(lines({i for i, h in seen if h == host and outside(i)}, packages, nodes, vary))


main()
