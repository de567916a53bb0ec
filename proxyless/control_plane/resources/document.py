"""One document to a resource, collecting what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proxyless.control_plane.resources import coverage, kinds, schema, yaml_tree
from proxyless.control_plane.resources.names import DNS_LABEL_RULE, is_dns_label, is_dns_subdomain
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.problem import MAX_MESSAGE, Level, Problem, has_error
from proxyless.control_plane.resources.resource import Key, Resource, Source
from proxyless.control_plane.resources.validation import check
from proxyless.control_plane.resources.yaml_tree import Node, TreeError

_TOP = {"apiVersion", "kind", "metadata", "status"}
_METADATA = {
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. key: None when it does not say what it is. resource: None when it is refused or not ours.

    data: the document itself, as plain JSON data, for storing.
    """

    line: int
    key: Key | None = None
    resource: Resource[Any] | None = None
    problems: tuple[Problem, ...] = ()
    data: Any = None

    @property
    def refused(self) -> bool:
        return self.resource is None and has_error(self.problems)


def read_document(node: Node, file: str, namespace: str) -> Document:
    """namespace: of a document that names none."""
    return _Reader(node, file, namespace).document()


def unreadable(file: str, line: int, message: str) -> Document:
    return Document(line, problems=(Problem("InvalidYaml", Level.ERROR, message, file=file, line=line),))


class _Reader:
    """Reads one document, collecting what is wrong with it."""

    def __init__(self, node: Node, file: str, namespace: str) -> None:
        self._node = node
        self._file = file
        self._default_namespace = namespace
        self._problems: list[Problem] = []
        self._kind = self._namespace = self._name = self._api_version = ""

    def _say(self, code: str, message: str, path: str = "", line: int = 0, level: Level = Level.ERROR) -> None:
        text = (f"{path}: {message}" if path else message)[:MAX_MESSAGE]
        self._problems.append(
            Problem(
                code, level, text, self._kind, self._namespace, self._name, self._file, line or self._node.line, path
            )
        )

    def document(self) -> Document:
        if not isinstance(self._node.value, dict):
            self._say("InvalidYaml", "a document must be a mapping with apiVersion, kind, metadata and spec")
            return self._refused(None)
        self._api_version = self._required_text("apiVersion")
        self._kind = self._required_text("kind")
        metadata = self._node.get("metadata")
        name = metadata.get("name") if metadata else None
        self._name = name.value if name and isinstance(name.value, str) else ""
        if self._problems:
            return self._refused(None)
        if not kinds.is_read(self._kind, self._api_version, self._name):
            return self._not_ours()
        kind = kinds.KINDS[self._kind]
        if self._api_version not in kind.api_versions:
            line = self._line("apiVersion")
            known = ", ".join(kind.api_versions)
            self._say("SchemaValidationError", f"{self._api_version} is not served; use {known}", "apiVersion", line)
        labels, annotations, created = self._metadata(kind)
        if not self._name or any(problem.code == "InvalidName" for problem in self._problems):
            return self._refused(None)
        key = Key(self._kind, self._namespace, self._name)
        spec, lines = self._spec(kind)
        if spec is None or has_error(self._problems):
            return self._refused(key)
        source = Source(self._file, self._node.line, lines)
        resource = Resource(key, self._api_version, spec, labels, annotations, created, source)
        self._problems += check(resource)
        if has_error(self._problems):
            return self._refused(key)
        self._problems += coverage.not_acted_on(resource)
        return Document(self._node.line, key, resource, tuple(self._problems), self._node.data())

    def _refused(self, key: Key | None) -> Document:
        return Document(self._node.line, key, None, tuple(self._problems))

    def _line(self, key: str) -> int:
        node = self._node.get(key)
        return node.line if node else self._node.line

    def _required_text(self, key: str) -> str:
        node = self._node.get(key)
        if node is None or not isinstance(node.value, str) or not node.value:
            self._say("SchemaValidationError", "is required and must be a text", key, self._line(key))
            return ""
        return node.value

    def _not_ours(self) -> Document:
        metadata = self._node.get("metadata")
        node = metadata.get("namespace") if metadata else None
        self._namespace = node.value if node and isinstance(node.value, str) else ""
        if kinds.is_unserved_mesh_kind(self._kind, self._api_version):
            message = f"kind {self._kind} ({self._api_version}) is not acted on by this version"
            self._say("KindNotActedOn", message, level=Level.WARNING)
        elif (meant := kinds.meant(self._kind, self._api_version)) is not None:
            hint = f"; did you mean {meant}?" if meant else ""
            message = f"kind {self._kind} ({self._api_version}) is unknown and skipped{hint}"
            self._say("UnknownKind", message, level=Level.WARNING)
        else:
            message = f"kind {self._kind} ({self._api_version}) is not mesh configuration; skipped"
            self._say("KindNotRead", message, level=Level.INFO)
        return self._refused(None)

    def _metadata(self, kind: kinds.Kind) -> tuple[Mapping[str, str], Mapping[str, str], float]:
        metadata = self._node.get("metadata")
        if metadata is None or not isinstance(metadata.value, dict):
            self._say(
                "InvalidName", "is required and must be a mapping with a name", "metadata", self._line("metadata")
            )
            return {}, {}, 0.0
        for field in metadata.value:
            if field not in _METADATA:
                path = child("metadata", field)
                self._say("UnknownField", "unknown field", path, metadata.value[field].line)
        is_name = is_dns_label if kind.name in {"Service", "Namespace"} else is_dns_subdomain
        name = metadata.get("name")
        if name is None or name.value in (None, ""):
            self._say("InvalidName", "is required", "metadata.name", name.line if name else metadata.line)
        elif not isinstance(name.value, str) or not is_name(name.value):
            rule = (
                "must be a DNS-1123 name: lower case letters, digits, '-', starting and ending with a letter or digit"
            )
            self._say("InvalidName", rule, "metadata.name", name.line)
        namespace = metadata.get("namespace")
        if kind.namespaced:
            self._namespace = self._default_namespace
            if namespace is not None and namespace.value not in (None, ""):
                if isinstance(namespace.value, str) and is_dns_label(namespace.value):
                    self._namespace = namespace.value
                else:
                    self._say("InvalidName", f"must be {DNS_LABEL_RULE}", "metadata.namespace", namespace.line)
        labels, annotations = self._texts(metadata, "labels"), self._texts(metadata, "annotations")
        return labels, annotations, self._created(metadata)

    def _texts(self, metadata: Node, field: str) -> dict[str, str]:
        node = metadata.get(field)
        if node is None or node.value is None:
            return {}
        path = f"metadata.{field}"
        if not isinstance(node.value, dict):
            self._say("SchemaValidationError", "must be a mapping of texts", path, node.line)
            return {}
        texts: dict[str, str] = {}
        for key, value in node.value.items():
            if isinstance(value.value, str):
                texts[key] = value.value
            else:
                self._say("SchemaValidationError", "must be a text; put it in quotes", child(path, key), value.line)
        return texts

    def _created(self, metadata: Node) -> float:
        node = metadata.get("creationTimestamp")
        if node is None or node.value is None:
            return 0.0
        try:
            when = datetime.fromisoformat(str(node.value))
        except ValueError:
            rule = "must be a time such as 2026-01-31T12:00:00Z"
            self._say("SchemaValidationError", rule, "metadata.creationTimestamp", node.line)
            return 0.0
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()

    def _spec(self, kind: kinds.Kind) -> tuple[Any, dict[str, int]]:
        assert isinstance(self._node.value, dict)
        lines = dict(self._node.lines())
        top = _TOP | ({kind.root} if "." not in kind.root else {"data", "binaryData", "immutable"})
        if not kind.root:
            data: Any = {key: node.data() for key, node in self._node.value.items() if key not in _TOP}
            return self._validated(kind, data, "", lines)
        for field, node in self._node.value.items():
            if field not in top:
                self._say("UnknownField", f"unknown field; known here: {', '.join(sorted(top))}", field, node.line)
        if "." in kind.root:
            return self._embedded(kind, lines)
        found = self._node.get(kind.root)
        if found is None or found.value is None:
            if kind.required:
                self._say("SchemaValidationError", "is required", kind.root)
                return None, lines
            return self._validated(kind, {}, kind.root, lines)
        return self._validated(kind, found.data(), kind.root, lines)

    def _embedded(self, kind: kinds.Kind, lines: dict[str, int]) -> tuple[Any, dict[str, int]]:
        """A spec that is YAML text inside a field of the document (MeshConfig in a ConfigMap)."""
        outer, _, inner = kind.root.partition(".")
        data = self._node.get(outer)
        text = data.get(inner) if data else None
        if text is None or text.value is None:
            return self._validated(kind, {}, kind.root, lines)
        if not isinstance(text.value, str):
            self._say("SchemaValidationError", "must be a text of YAML (write it after `|`)", kind.root, text.line)
            return None, lines
        try:
            nodes = yaml_tree.read(text.value, text.line if text.block else text.line - 1)
        except TreeError as error:
            self._say("InvalidYaml", error.message, kind.root, error.line)
            return None, lines
        if not nodes or nodes[0].value is None:
            return self._validated(kind, {}, kind.root, lines)
        lines |= dict(nodes[0].lines(kind.root))
        return self._validated(kind, nodes[0].data(), kind.root, lines)

    def _validated(self, kind: kinds.Kind, data: Any, root: str, lines: dict[str, int]) -> tuple[Any, dict[str, int]]:
        spec, faults = schema.validate(kind.spec, data, root)
        source = Source(self._file, self._node.line, lines)
        for code, path, message in faults:
            self._say(code, message, path, source.line_of(path))
        return spec, lines
