"""Reads Kubernetes' API types out of Go source: just enough of the language for types.go files.

`Universe.package(path)` parses one package folder. What comes out are declarations (structs with tagged fields, named
scalars, slices and maps, aliases), the constants of each named scalar, and the `+marker` comments above them. Nothing
here knows what the facts are for; `facts.py` does.
"""

import os
import re

MARKER = re.compile(r"^\s*\+(\S.*)$")
FIELD = re.compile(r"^(?:(\w+)\s+)?([\w.\[\]*{}]+)\s*(`.*`)?\s*(?://.*)?$")
TAG = re.compile(r'(\w+):"((?:[^"\\]|\\.)*)"')
CONST = re.compile(r'^\s*(\w+)\s+([\w.]+)\s*=\s*(".*"|[\w.]+)\s*(?://.*)?$')


class Field:
    def __init__(self, name, gotype, tags, markers):
        self.name, self.gotype, self.tags, self.markers = name, gotype, tags, markers


class Decl:
    """One `type` declaration. `kind` is struct, scalar (anything else) or alias (`type A = B`)."""

    def __init__(self, name, kind, target, markers, imports):
        self.name, self.kind, self.target, self.markers, self.imports = name, kind, target, markers, imports
        self.fields = []


class Package:
    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path)
        self.decls = {}
        self.consts = {}  # type name -> [(constant, value)]
        self.values = {}  # constant -> value
        self.group = None
        self.models = set()


def markers(lines):
    return [m.group(1).strip() for m in (MARKER.match(l) for l in lines) if m]


def parse_tags(text):
    return dict(TAG.findall(text)) if text else {}


class Universe:
    """Packages by import path, looked up in several source folders (the first that has it wins)."""

    def __init__(self, roots):
        self.roots, self.packages = roots, {}

    def folder(self, path):
        for root in self.roots:
            folder = os.path.join(root, path.removeprefix("k8s.io/"))
            if os.path.isdir(folder):
                return folder
        return None

    def package(self, path):
        if path not in self.packages:
            folder = self.folder(path)
            self.packages[path] = self._parse(path, folder) if folder else None
        return self.packages[path]

    def _parse(self, path, folder):
        package = Package(path)
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".go") or name.endswith("_test.go") or name.endswith(".pb.go"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                text = f.read()
            if name == "zz_generated.model_name.go":
                package.models |= set(re.findall(r'return "[\w.-]+\.(\w+)"', text))
            elif not name.startswith("zz_") and name != "fieldsv1_string.go":
                self._file(package, text)
        return package

    def _file(self, package, text):
        group = re.search(r"^//\s*\+groupName=(\S*)", text, re.M)
        if group:
            package.group = group.group(1)
        imports, comments, previous, current, constant = {}, [], [], None, False
        for line in text.split("\n"):
            stripped = line.strip()
            found = re.match(r'^(?:import\s+)?(\w+\s+)?"([\w./-]+)"$', stripped)
            if found and current is None and not constant:
                alias = (found.group(1) or os.path.basename(found.group(2))).strip()
                imports[alias] = found.group(2)
                continue
            if stripped.startswith("//"):
                comments.append(stripped[2:])
                continue
            if not stripped:
                previous, comments = (comments or previous), []
                continue
            found = re.match(r"^type (\w+) struct ?\{(\})?$", line)
            if found:
                current = Decl(found.group(1), "struct", None, markers(previous + comments), imports)
                package.decls[current.name] = current
                if found.group(2):
                    current = None
                previous = comments = []
                continue
            found = re.match(r"^type (\w+)(\s*=)? ([\w.\[\]*]+)\s*(?://.*)?$", line)
            if found:
                kind = "alias" if found.group(2) else "scalar"
                package.decls[found.group(1)] = Decl(found.group(1), kind, found.group(3), markers(previous + comments), imports)
            elif current is not None:
                if line.startswith("}"):
                    current = None
                else:
                    self._field(current, stripped, comments)
            elif line.startswith("const ("):
                constant = True
            elif line.startswith(")"):
                constant = False
            else:
                found = CONST.match(line.removeprefix("const "))
                if found and (constant or line.startswith("const ")):
                    name, gotype, value = found.groups()
                    package.consts.setdefault(gotype, []).append((name, value.strip('"')))
                    package.values[name] = value.strip('"')
                else:
                    found = re.match(r'^(?:const )?\s*(\w+)\s*=\s*(?:\w+\()?("[^"]*"|\d+)\)?\s*$', line)
                    if found and (constant or line.startswith("const ")):
                        package.values[found.group(1)] = found.group(2).strip('"')
            previous, comments = [], []

    def _field(self, decl, text, comments):
        found = FIELD.match(text)
        if not found:
            return
        name, gotype, tag = found.groups()
        if name is None:
            name = gotype.split(".")[-1].lstrip("*")
        decl.fields.append(Field(name, gotype, parse_tags(tag), markers(comments)))
