"""Finds what answers a path: the route table as a tree of path segments, built once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl, unquote

from tq.errors import MethodNotAllowed, NotFound
from tq.model import Command
from tq.web.exchange import Route

REMEMBERED_PATHS = 4_096  # most requests are for a few queues
MAX_REMEMBERED_LENGTH = 200  # characters of a path; those of queues that exist are shorter

# Keys in a node of the tree that no segment of a path can be: a segment is not empty and holds no slash.
_HERE = ""  # the node's own resource
_ANY = "/"  # the child that takes any segment


class Resource:
    """What one path answers, by method. A GET that only looks can also be asked for its HEAD."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self.path = ""
        self._plain: dict[str, Route] = {}  # those that a parameter of the query string turns into the ones above
        self._looking: set[int] = set()  # by identity
        self.variables: list[str] = []
        self.allow = "OPTIONS"

    def add(self, route: Route) -> None:
        self.path = route.path
        routes = self._plain if route.unless else self._routes
        routes[route.method] = route
        self.variables = [segment[1:-1] for segment in route.path.split("/") if segment.startswith("{")]
        asks_for = get_type_hints(route.ask)["return"]
        if isinstance(asks_for, type) and not issubclass(asks_for, Command):
            self._looking.add(id(route))
            if route.method == "GET":
                routes["HEAD"] = route
        self.allow = ", ".join(sorted({*self._routes, *self._plain, "OPTIONS"}))

    def is_change(self, route: Route) -> bool:
        """Whether one of its routes may do more than look."""
        return id(route) not in self._looking

    def route(self, method: str, query: str = "") -> Route:
        """Raises MethodNotAllowed."""
        plain = self._plain.get(method)
        if plain and all(name != plain.unless for name, _ in parse_qsl(query, keep_blank_values=True)):
            return plain
        route = self._routes.get(method)
        if route is None:
            raise MethodNotAllowed(f"This path takes {self.allow}.")
        return route


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._tree: dict[str, Any] = {}
        for route in routes:
            node = self._tree
            for segment in filter(None, route.path.split("/")):
                node = node.setdefault(_ANY if segment.startswith("{") else segment, {})
            node.setdefault(_HERE, Resource()).add(route)
        # The last segment may be a message, and another one in each request; what is before it comes again.
        self._parent = lru_cache(maxsize=REMEMBERED_PATHS)(self._find_parent)

    def find(self, path: str) -> tuple[Resource, dict[str, str]]:
        """The resource at a path, and the path's variables by name, percent-decoded. Raises NotFound.

        What is not UTF-8 in a variable becomes U+FFFD, which nothing is named.
        """
        parent, _, last = path.removesuffix("/").removeprefix("/").rpartition("/")
        find_parent = self._parent if len(parent) <= MAX_REMEMBERED_LENGTH else self._find_parent
        node, variables = find_parent(parent)
        if last:
            node, variables = _step(node, variables, last)
        if _HERE not in node:
            raise NotFound
        resource: Resource = node[_HERE]
        return resource, dict(zip(resource.variables, variables, strict=True))

    def _find_parent(self, path: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        node = self._tree
        variables: tuple[str, ...] = ()
        for segment in path.split("/") if path else ():
            node, variables = _step(node, variables, segment)
        return node, variables


def _step(node: dict[str, Any], variables: tuple[str, ...], segment: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """From a node of the tree to its child. Raises NotFound."""
    if segment:
        child = node.get(segment)
        if child is not None:
            return child, variables
        child = node.get(_ANY)
        if child is not None:
            return child, (*variables, unquote(segment) if "%" in segment else segment)
    raise NotFound
