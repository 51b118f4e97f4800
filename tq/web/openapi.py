"""The OpenAPI 3.1 document, made of the route table, and the route that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from http.client import responses
from inspect import getdoc
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, UnsetType

from tq import __version__
from tq.errors import (
    CrossSiteRequest,
    Forbidden,
    HeadersTooLarge,
    HostMissing,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    Overloaded,
    RequestTimeout,
    StorageDamaged,
    StorageFailed,
    StorageFull,
    TqError,
    Unauthenticated,
    UnsupportedMediaType,
)
from tq.model import Command, Query
from tq.web.exchange import JSON, PROBLEM, Answer, Problem, Request, Response, Route
from tq.web.shapes import VARIABLES

PATH = "/openapi.json"

ABOUT = """\
Beside what stands here, OPTIONS on any path answers `Allow`, HEAD works wherever a GET only looks, and a trailing slash
is ignored, but in a purge. A JSON body may come without a `Content-Type`, or with the form type that `curl -d` sends
unasked.
"""

# What a request may meet before its route has looked at it, and what its kind may meet in the storage.
_ANY_REQUEST = (
    InvalidRequest,
    HostMissing,
    HostNotAllowed,
    RequestTimeout,
    MessageTooLarge,
    UnsupportedMediaType,
    HeadersTooLarge,
    InternalError,
)
_ANY_COMMAND = (CrossSiteRequest, Overloaded, StorageFailed, StorageDamaged, StorageFull)
_ANY_QUERY = (StorageFailed, StorageDamaged)

_Wait = Annotated[int, Meta(ge=0, description="Seconds after which trying again may help.")]


def published(*routes: Route) -> tuple[Route, ...]:
    """The routes and one more, which shows the document of them all."""
    document = b""
    tag = ""

    def get_document(request: Request) -> Response:
        """This document."""
        # It is asked for each time, for the server may be another version by then; when it is not, that is all.
        headers = (("ETag", tag),)
        if tag in request.headers.get("if-none-match", ""):
            return Response(304, headers=headers, cache="no-cache")
        return Response(200, document, JSON, headers, "no-cache")

    answers = {200: Answer({JSON: dict[str, Any]}, {"ETag": str}), 304: Answer({}, {"ETag": str})}
    own = Route("GET", PATH, get_document, _as_it_is, headers={"If-None-Match": str}, answers=answers, is_open=True)
    document = msgspec.json.encode(describe((*routes, own)))
    tag = f'"{blake2b(document, digest_size=12).hexdigest()}"'
    return (*routes, own)


def _as_it_is(_: Request, result: Response) -> Response:
    return result


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    components = _Components()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tq", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {"schemas": components.schemas, "responses": components.responses},
    }


class _Components:
    """What operations share by reference: the schemas of structs, and the responses that errors give."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self.responses: dict[str, Any] = {}
        self._known: dict[str, dict[str, Any]] = {}  # by what the shape looks like

    def schema(self, shape: Any) -> dict[str, Any]:
        if shape is bytes:
            return {}  # as they are, which a schema cannot say
        if get_origin(shape) in (Union, UnionType):  # which msgspec would have to tell apart when it decodes
            parts = [self.schema(part) for part in get_args(shape) if part is not UnsetType]
            return {"anyOf": parts} if len(parts) > 1 else parts[0]
        if (known := self._known.get(repr(shape))) is not None:
            return known
        (schema,), found = msgspec.json.schema_components([shape], ref_template="#/components/schemas/{name}")
        for name, component in found.items():
            assert self.schemas.setdefault(name, component) == component, f"two shapes are named {name}"
        self._known[repr(shape)] = schema
        return schema

    def fields(self, struct: type[Struct]) -> dict[str, Any]:
        """The schema of each field of a struct that is no component itself."""
        _, found = msgspec.json.schema_components([struct])
        fields: dict[str, Any] = found[struct.__name__]["properties"]
        return fields

    def problem(self, errors: list[type[TqError]]) -> dict[str, Any]:
        """A reference to the response that errors of one status give."""
        codes = [error.code for error in errors]
        name = ".".join(codes)
        if name not in self.responses:
            schema = {**self.schema(Problem), "properties": {"code": {"enum": codes}}}
            self.responses[name] = {
                "description": " ".join(error.title for error in errors),
                "content": {PROBLEM: {"schema": schema}},
            }
            if any(error.retry_after_s for error in errors):
                shape = _Wait if all(error.retry_after_s for error in errors) else _Wait | UnsetType
                self.responses[name]["headers"] = self.headers({"Retry-After": shape})
        return {"$ref": f"#/components/responses/{name}"}

    def content(self, by_media_type: Mapping[str, Any]) -> dict[str, Any]:
        return {media_type: {"schema": self.schema(shape)} for media_type, shape in by_media_type.items()}

    def headers(self, by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"required": UnsetType not in get_args(shape), "schema": self.schema(shape)}
            for name, shape in by_name.items()
        }


def _operation(route: Route, components: _Components) -> dict[str, Any]:
    answers = {str(status): _response(status, answer, components) for status, answer in route.answers.items()}
    by_status: dict[int, list[type[TqError]]] = {}
    for error in errors_of(route):
        by_status.setdefault(error.status, []).append(error)
    return {
        "operationId": route.ask.__name__,
        "summary": getdoc(route.ask),
        "parameters": list(_parameters(route, components)),
        **_body(route, components),
        "responses": answers | {str(status): components.problem(by_status[status]) for status in sorted(by_status)},
    }


def errors_of(route: Route) -> tuple[type[TqError], ...]:
    """All that a request to the route can be answered with beside its answers."""
    asked = get_type_hints(route.ask)["return"]
    kinds = get_args(asked) or (asked,)
    of_command = _ANY_COMMAND if any(issubclass(kind, Command) for kind in kinds) else ()
    of_query = _ANY_QUERY if any(issubclass(kind, Query) for kind in kinds) else ()
    of_token = () if route.is_open else (Unauthenticated, Forbidden)
    return (*_ANY_REQUEST, *of_token, *route.errors, *of_command, *of_query)


def _parameters(route: Route, components: _Components) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": components.schema(VARIABLES[name])}
    for name, schema in components.fields(route.query).items() if route.query else ():
        yield {"name": name, "in": "query", "schema": schema}
    for name, shape in route.headers.items():
        yield {"name": name, "in": "header", "schema": components.schema(shape)}


def _body(route: Route, components: _Components) -> dict[str, Any]:
    bodies = route.bodies or ({JSON: route.body} if route.body else {})
    if not bodies:
        return {}
    return {"requestBody": {"required": not route.is_body_optional, "content": components.content(bodies)}}


def _response(status: int, answer: Answer, components: _Components) -> dict[str, Any]:
    described: dict[str, Any] = {"description": responses[status]}
    if answer.content:
        described["content"] = components.content(answer.content)
    if answer.headers:
        described["headers"] = components.headers(answer.headers)
    return described
