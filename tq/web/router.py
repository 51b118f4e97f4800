"""Finds what answers a path: the route table as a tree of path segments, built once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, get_type_hints
from urllib.parse import unquote

from tq.errors import MethodNotAllowed, NotFound
from tq.model import Command
from tq.web.exchange import Route

REMEMBERED_PATHS = 4_096  # most requests are for a few queues

# Keys in a node of the tree that no segment of a path can be: a segment is not empty and holds no slash.
_HERE = ""  # the node's own resource
_ANY = "/"  # the child that takes any segment


class Resource:
    """What one path answers, by method. A GET that only looks can also be asked for its HEAD."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self.variables: list[str] = []
        self.allow = "OPTIONS"

    def add(self, route: Route) -> None:
        self._routes[route.method] = route
        self.variables = [segment[1:-1] for segment in route.path.split("/") if segment.startswith("{")]
        if route.method == "GET" and not issubclass(get_type_hints(route.ask)["return"], Command):
            self._routes["HEAD"] = route
        self.allow = ", ".join(sorted({*self._routes, "OPTIONS"}))

    def route(self, method: str) -> Route:
        """Raises MethodNotAllowed."""
        route = self._routes.get(method)
        if route is None:
            raise MethodNotAllowed(f"This path takes {self.allow}.")
        return route


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._tree: dict[str, Any] = {}
        for route in routes:
            node = self._tree
            for segment in route.path.strip("/").split("/"):
                node = node.setdefault(_ANY if segment.startswith("{") else segment, {})
            node.setdefault(_HERE, Resource()).add(route)
        self.find = lru_cache(maxsize=REMEMBERED_PATHS)(self._find)

    def _find(self, path: str) -> tuple[Resource, dict[str, str]]:
        """The resource at a path, and the path's variables by name, percent-decoded. Raises NotFound.

        What is not UTF-8 in a variable becomes U+FFFD, which nothing is named.
        """
        node = self._tree
        variables = []
        for segment in path.removesuffix("/").removeprefix("/").split("/"):
            if segment and segment in node:
                node = node[segment]
            elif segment and _ANY in node:
                node = node[_ANY]
                variables.append(unquote(segment) if "%" in segment else segment)
            else:
                raise NotFound
        if _HERE not in node:
            raise NotFound
        resource = node[_HERE]
        return resource, dict(zip(resource.variables, variables, strict=True))
