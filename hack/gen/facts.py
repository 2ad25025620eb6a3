#!/usr/bin/env python3
"""Writes apiserver/schema/data/types.txt: every built-in API type of Kubernetes v1.36 as one line per type and field.

    hack/gen/facts.py FOLDER... > apiserver/schema/data/types.txt

Each FOLDER holds Kubernetes' staging modules side by side (api, apimachinery, apiextensions-apiserver,
kube-aggregator); the first that has a module wins. Where they come from:

  - Debian sid packages golang-k8s-api-dev, golang-k8s-apimachinery-dev and golang-k8s-apiextensions-apiserver-dev,
    version 0.36.4, unpacked with `dpkg -x`: usr/share/gocode/src/k8s.io
  - for kube-aggregator, which Debian does not package: the public repository kubernetes/kube-aggregator, v0.36

All are Apache-2.0, The Kubernetes Authors. Facts are taken (names, numbers, tags, markers); prose is not.

The form, read by apiserver/schema/src/facts/parse.rs. Types are sorted by package and name, fields keep their order of
declaration (which is the order in which Go prints them):

    package QUALIFIER PREFIX GROUP VERSION    types below belong to it; GROUP is - for core
    special NAME LEAF                         a type with its own encoding, for instance Time
    scalar NAME BASE [VALUE...]               a named scalar; values if they are an enumeration
    alias NAME TYPE                           a named slice or map, or another name of a type
    wrapper NAME TYPE                         a named slice that protobuf wraps into a message with `items`
    struct NAME [kind] [atomic]               kind: carries apiVersion and kind; atomic: never merged by field
     JSON NUMBER TYPE [FLAG...]               a field; NUMBER is - when protobuf does not have it

    TYPE is Go's: *T, []T, map[K]T, and QUALIFIER.Name for types of other packages.
    FLAG: omit (omitempty) zero (omitzero) req (required) inline proto=NAME (when it is not the JSON name)
          list=atomic|set|map:KEY,KEY  map=atomic|granular  patch=merge:KEY|merge|retainKeys|merge,retainKeys:KEY
          default=JSON
"""

import json
import os
import re
import sys

from gosource import Universe

HEADER = """\
# Built-in API types of Kubernetes v1.36. Written by hack/gen/facts.py, which describes the form; do not edit.
# Facts taken from Kubernetes, Copyright The Kubernetes Authors, Apache License 2.0; see NOTICE.
"""

META = "k8s.io/apimachinery/pkg/apis/meta/v1"
SPECIAL = {
    ("k8s.io/apimachinery/pkg/api/resource", "Quantity"): "quantity",
    ("k8s.io/apimachinery/pkg/runtime", "RawExtension"): "raw",
    ("k8s.io/apimachinery/pkg/util/intstr", "IntOrString"): "intorstring",
    (META, "Time"): "time",
    (META, "MicroTime"): "microtime",
    (META, "Duration"): "duration",
    (META, "FieldsV1"): "raw",
}
for version in ("v1", "v1beta1"):
    crd = f"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/{version}"
    SPECIAL[(crd, "JSON")] = "raw"
    SPECIAL[(crd, "JSONSchemaPropsOrArray")] = "schema-or-array"
    SPECIAL[(crd, "JSONSchemaPropsOrBool")] = "schema-or-bool"
    SPECIAL[(crd, "JSONSchemaPropsOrStringArray")] = "schema-or-strings"
# Named slices which are messages of their own in protobuf (upstream marks them +protobuf.nullable).
WRAPPERS = {"ExtraValue", "Verbs"}
BASIC = {"string", "bool", "int", "int32", "int64", "uint8", "byte", "uint32", "uint64", "float64", "float32", "interface{}"}
# Scalars of packages that hold no API types: their base suffices.
FOREIGN = {"k8s.io/apimachinery/pkg/types": "string"}
# Types of meta/v1 that never appear as such on the wire.
UNWANTED = {"InternalEvent", "TypeMeta", "Timestamp"}


def packages(universe):
    api = universe.folder("k8s.io/api")
    found = []
    for group in sorted(os.listdir(api)):
        for version in sorted(os.listdir(os.path.join(api, group))) if os.path.isdir(os.path.join(api, group)) else []:
            if re.fullmatch(r"v\d\w*", version):
                found.append((f"{group}/{version}", f"k8s.io/api/{group}/{version}"))
    found += [
        ("apiextensions/v1", "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"),
        ("apiextensions/v1beta1", "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"),
        ("apiregistration/v1", "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"),
        ("intstr", "k8s.io/apimachinery/pkg/util/intstr"),
        ("meta/v1", META),
        ("resource", "k8s.io/apimachinery/pkg/api/resource"),
        ("runtime", "k8s.io/apimachinery/pkg/runtime"),
        ("types", "k8s.io/apimachinery/pkg/types"),
    ]
    return sorted(found)


def prefix(path):
    head, _, rest = path.partition("/")
    return ".".join(reversed(head.split("."))) + "." + rest.replace("/", ".")


class Writer:
    def __init__(self, universe, listed):
        self.universe = universe
        self.qualifiers = {path: qualifier for qualifier, path in listed}

    def resolve(self, gotype, decl, path):
        """Go's text of a type, with qualifiers of our own."""
        found = re.match(r"^(\*|\[\]|map\[([\w.]+)\])(.+)$", gotype)
        if found:
            rest = self.resolve(found.group(3), decl, path)
            if found.group(2):
                return f"map[{self.resolve(found.group(2), decl, path)}]{rest}"
            return found.group(1) + rest
        if gotype in BASIC:
            return gotype
        if "." in gotype:
            alias, name = gotype.split(".")
            target = decl.imports[alias]
            if target == "k8s.io/apimachinery/pkg/watch":
                return "string"
            if target not in self.qualifiers:
                raise SystemExit(f"{path}: {gotype}: no package {target}")
            return f"{self.qualifiers[target]}.{name}" if target != path else name
        return gotype

    def flags(self, path, field, package):
        tags, marks = field.tags, field.markers
        value = dict(m.split("=", 1) for m in marks if "=" in m)
        json_name, *options = tags["json"].split(",")
        out = []
        if "omitempty" in options:
            out.append("omit")
        if "omitzero" in options:
            out.append("zero")
        if "inline" in options:
            out.append("inline")
        optional = "optional" in marks or "k8s:optional" in marks
        if not optional and "required" not in marks and "k8s:required" not in marks:
            optional = "omitempty" in options or "omitzero" in options
        if not optional and "inline" not in options:
            out.append("req")
        proto = re.search(r"name=(\w+)", tags.get("protobuf", ""))
        if proto and proto.group(1) != json_name:
            out.append(f"proto={proto.group(1)}")
        topology = value.get("listType")
        if topology == "map":
            keys = [m.split("=", 1)[1] for m in marks if m.startswith("listMapKey=")]
            out.append("list=map:" + ",".join(keys))
        elif topology:
            out.append(f"list={topology}")
        if "mapType" in value:
            out.append(f"map={value['mapType']}")
        elif "structType" in value:
            out.append(f"map={value['structType']}")
        if "patchStrategy" in tags:
            key = tags.get("patchMergeKey")
            out.append(f"patch={tags['patchStrategy']}" + (f":{key}" if key else ""))
        if "default" in value:
            out.append("default=" + self.default(value["default"], package))
        return out

    def default(self, text, package):
        ref = re.fullmatch(r"ref\((\w+)\)", text)
        if ref:
            text = json.dumps(package.values[ref.group(1)])
        return json.dumps(json.loads(text), separators=(",", ":"))

    def struct(self, path, decl, package, out):
        kind, lines = False, []
        for field in decl.fields:
            if "json" not in field.tags or field.tags["json"].split(",")[0] == "-":
                continue
            if field.name == "TypeMeta":
                kind = True
                continue
            name = field.tags["json"].split(",")[0] or "-"
            number = field.tags.get("protobuf", "-").split(",")
            number = number[1] if len(number) > 1 else "-"
            gotype = self.resolve(field.gotype, decl, path)
            lines.append(" ".join([f" {name}", number, gotype] + self.flags(path, field, package)))
        words = ["struct", decl.name]
        # An options type embeds TypeMeta but is not an object of its own; neither is anything that lacks json fields.
        if kind:
            words.append("kind")
        if "mapType=atomic" in decl.markers or "structType=atomic" in decl.markers:
            words.append("atomic")
        out.append(" ".join(words))
        out.extend(lines)

    def package(self, qualifier, path):
        package = self.universe.package(path)
        # register.go's GroupName; the +groupName marker is missing in some packages, and core's is empty.
        group = package.values.get("GroupName") or package.group or "-"
        if qualifier in ("resource", "runtime", "intstr", "types"):
            group = "-"
        version = os.path.basename(path) if re.fullmatch(r"v\d\w*", os.path.basename(path)) else "-"
        out = [f"package {qualifier} {prefix(path)} {group} {version}"]
        for name in sorted(package.decls):
            decl = package.decls[name]
            special = SPECIAL.get((path, name))
            if special:
                out.append(f"special {name} {special}")
                continue
            if qualifier in ("resource", "runtime", "intstr"):
                continue
            if not name[0].isupper() or name in UNWANTED and path == META:
                continue
            if decl.kind == "struct":
                if any("json" in f.tags for f in decl.fields) and (name in package.models or not package.models):
                    self.struct(path, decl, package, out)
                elif name in package.models and not decl.fields:
                    out.append(f"struct {name}")
                continue
            if decl.target.startswith("func") or decl.target == "error":
                continue
            if decl.target in BASIC:
                words = ["scalar", name, decl.target]
                if "enum" in decl.markers:
                    words += sorted({value for _, value in package.consts.get(name, [])})
                out.append(" ".join(words))
                continue
            target = self.resolve(decl.target, decl, path)
            word = "wrapper" if name in WRAPPERS else "alias"
            out.append(f"{word} {name} {target}")
        return out


def main(folders):
    if not folders:
        raise SystemExit(__doc__)
    universe = Universe(folders)
    listed = packages(universe)
    writer = Writer(universe, listed)
    print(HEADER, end="")
    for qualifier, path in listed:
        if universe.folder(path) is None:
            raise SystemExit(f"no folder given has {path}")
        print("\n".join(writer.package(qualifier, path)))


if __name__ == "__main__":
    main(sys.argv[1:])
