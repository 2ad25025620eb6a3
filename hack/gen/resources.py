#!/usr/bin/env python3
"""Writes apiserver/schema/data/resources.txt: every built-in resource of Kubernetes v1.36 and its subresources.

    hack/gen/resources.py FOLDER > apiserver/schema/data/resources.txt

FOLDER is the public repository kubernetes/kubernetes at v1.36 (Apache-2.0, The Kubernetes Authors). Read from it:

  - api/discovery/*.json: names, verbs, short names, categories, subresources, and the order of groups and versions
  - test/integration/etcd/data.go: under which key and in which version each resource is stored
  - pkg/controlplane/instance.go: which group-versions are served by default

The form, read by apiserver/schema/src/facts/parse.rs; groups in order of priority, resources sorted by name:

    group NAME VERSION...                    NAME is - for core; versions in order of preference
    resource GROUP/VERSION PLURAL SINGULAR KIND ns|cluster [FLAG...]
     sub NAME KIND VERBS [gvk=GROUP/VERSION]  gvk when the body is of another group-version

    FLAG: verbs=V,V short=N,N cat=C,C store=GROUP/VERSION (the version in storage) key=PREFIX (in etcd, without /registry)
          off (its group-version is not served unless --runtime-config asks)
    Verbs: c create, d delete, D deletecollection, g get, l list, p patch, u update, w watch.
"""

import json
import os
import re
import sys

HEADER = """\
# Built-in resources of Kubernetes v1.36. Written by hack/gen/resources.py, which describes the form; do not edit.
# Facts taken from Kubernetes, Copyright The Kubernetes Authors, Apache License 2.0; see NOTICE.
"""
LETTER = {"create": "c", "delete": "d", "deletecollection": "D", "get": "g", "list": "l", "patch": "p", "update": "u", "watch": "w"}


def load(folder, name):
    with open(os.path.join(folder, "api/discovery", name), encoding="utf-8") as f:
        return json.load(f)


def storage(folder):
    """(group, version, plural) -> (key prefix, stored group/version or None)."""
    with open(os.path.join(folder, "test/integration/etcd/data.go"), encoding="utf-8") as f:
        text = f.read()
    found = {}
    for entry in re.finditer(r'gvr\("([^"]*)", "([^"]*)", "([^"]*)"\): \{(.*?)\n\t\t\},', text, re.S):
        group, version, plural, body = entry.groups()
        path = re.search(r'ExpectedEtcdPath:\s*"/registry([^"]*)"', body).group(1)
        stored = re.search(r'ExpectedGVK:\s*gvkP\("([^"]*)", "([^"]*)"', body)
        namespaced = '" + namespace + "' in body.split("ExpectedEtcdPath")[1].split("\n")[0]
        prefix = path.rstrip("/") if namespaced else path.rsplit("/", 1)[0]
        found[(group, version, plural)] = (prefix, stored.groups() if stored else (group, version))
    return found


def enabled(folder):
    """Group-versions served by default, as (import alias) -> bool; resolved through the aliases' imports."""
    with open(os.path.join(folder, "pkg/controlplane/instance.go"), encoding="utf-8") as f:
        text = f.read()
    imports = dict(re.findall(r"(\w+) \"k8s\.io/(?:kubernetes/pkg/apis|api)/([\w/]+)\"", text))
    blocks = re.findall(r"(?:Stable|stable)APIGroupVersionsEnabledByDefault = \[\]schema\.GroupVersion\{(.*?)\n\t\}", text, re.S)
    if len(blocks) != 2:
        raise SystemExit("instance.go: the lists of group-versions have moved")
    return {imports[alias] for block in blocks for alias in re.findall(r"(\w+)\.SchemeGroupVersion", block)}


def verbs(names):
    return "".join(LETTER[v] for v in names)


def main(arguments):
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    folder = arguments[0]
    stored, on = storage(folder), enabled(folder)
    out = []
    versions = [("", ["v1"], "api__v1.json")]
    for group in load(folder, "apis.json")["groups"]:
        versions.append((group["name"], [v["version"] for v in group["versions"]], None))
    for group, names, legacy in versions:
        out.append(f"group {group or '-'} {' '.join(names)}")
        for version in names:
            document = load(folder, legacy or f"apis__{group}__{version}.json")
            # Package folders are named after a group's first label, two exceptions; these two are served by layers of
            # their own and always on.
            package = {"internal.apiserver.k8s.io": "apiserverinternal", "flowcontrol.apiserver.k8s.io": "flowcontrol",
                       "rbac.authorization.k8s.io": "rbac", "": "core"}.get(group, group.split(".")[0])
            default_on = f"{package}/{version}" in on or group in ("apiextensions.k8s.io", "apiregistration.k8s.io")
            rows = sorted(document["resources"], key=lambda r: r["name"])
            for row in rows:
                parent, _, sub = row["name"].partition("/")
                gvk = (row.get("group", group), row.get("version", version))
                if sub:
                    words = [f" sub {sub} {row['kind']} {verbs(row['verbs'])}"]
                    if gvk != (group, version):
                        words.append(f"gvk={gvk[0] or '-'}/{gvk[1]}")
                    if not any(r["name"] == parent for r in rows):
                        raise SystemExit(f"{row['name']} has no resource")
                    out.append(" ".join(words))
                    continue
                words = ["resource", f"{group or '-'}/{version}", parent, row["singularName"], row["kind"],
                         "ns" if row["namespaced"] else "cluster", f"verbs={verbs(row['verbs'])}"]
                if row.get("shortNames"):
                    words.append("short=" + ",".join(row["shortNames"]))
                if row.get("categories"):
                    words.append("cat=" + ",".join(row["categories"]))
                if (group, version, parent) in stored:
                    key, (sgroup, sversion) = stored[(group, version, parent)]
                    words += [f"store={sgroup or '-'}/{sversion}", f"key={key}"]
                if not default_on:
                    words.append("off")
                out.append(" ".join(words))
    print(HEADER, end="")
    print("\n".join(out))


if __name__ == "__main__":
    main(sys.argv[1:])
