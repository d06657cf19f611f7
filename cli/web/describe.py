"""What the API's document says of a question: its text, parameters, body and answers."""

from __future__ import annotations

from typing import Any

from atlas.query.question import Question
from cli.questions import help_of
from cli.web.paging import DEFAULT, MOST
from cli.web.parameters import required_of, schema_of
from cli.web.problems import KIND

PAGE: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT, "description": "Rows of a page."},
    "after": {"type": "string", "description": "Go on behind a page: its `next`."},
}
"""Parameters of a page."""

ANSWER = {
    "type": "object",
    "required": ["schema_version", "facts", "provenance", "defaults", "notes", "next", "rows", "parts"],
    "additionalProperties": False,
    "properties": {
        "schema_version": {"type": "integer"},
        "facts": {"type": "object", "description": "Numbers and names about the whole answer."},
        "provenance": {"type": "object", "description": "The maps and runs that the rows came from."},
        "defaults": {"type": "array", "items": {"type": "string"}, "description": "What was left open and filled in."},
        "notes": {"type": "array", "items": {"type": "string"}, "description": "Sentences for a person."},
        "next": {"type": ["string", "null"], "description": "The `after` of the next page."},
        "rows": {"type": "array", "items": {"type": "object"}},
        "parts": {"type": "object", "description": "Further tables by name."},
    },
}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
    },
}
SCHEMAS = {"Answer": ANSWER, "Problem": PROBLEM}

_PROBLEMS = {
    "400": "It cannot be asked so.",
    "401": "The token is missing.",
    "500": "Stored data is damaged.",
    "501": "Something is not installed here.",
    "503": "The atlas is being written, or the question took too long.",
}


def get(kind: type[Question[Any]], media_type: str, *, paged: bool) -> dict[str, Any]:
    """Of a question in an address."""
    return {"parameters": _parameters(kind, PAGE if paged else {}), "responses": _responses(media_type, ANSWER_REF)}


def post(kind: type[Question[Any]], media_type: str, *, paged: bool) -> dict[str, Any]:
    """Of a question as JSON."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": schema_of(kind, lists=True) | (PAGE if paged else {}),
        "required": required_of(kind),
    }
    body = {"required": True, "content": {media_type: {"schema": schema}}}
    extra = {"415": "The body is not JSON."}
    return {"requestBody": body, "responses": _responses(media_type, ANSWER_REF, extra)}


def file(kind: type[Question[Any]], media_type: str) -> dict[str, Any]:
    """Of an answer's rows as a file."""
    return {"parameters": _parameters(kind, {}), "responses": _responses(media_type, {"type": "string"})}


def about(kind: type[Question[Any]]) -> tuple[str, str]:
    """Its summary and description."""
    first, _, rest = help_of(kind).partition("\n\n")
    return " ".join(first.split()), rest


def share(document: dict[str, Any]) -> dict[str, Any]:
    """The same document, in which what many routes have alike, parameters and answers, stands once."""
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    components: dict[str, dict[str, Any]] = {"schemas": {**SCHEMAS}, "parameters": {}, "responses": {}}
    for operation in operations:
        parameters = operation.get("parameters", [])
        parameters[:] = [_shared(components, "parameters", parameter["name"], parameter) for parameter in parameters]
        if body := operation.get("requestBody"):
            [content] = body["content"].values()
            properties = content["schema"]["properties"]
            for name, schema in properties.items():
                properties[name] = _shared(components, "schemas", name, schema)
        responses = operation["responses"]
        for status, response in responses.items():
            responses[status] = _shared(components, "responses", f"status_{status}", response)
    return document | {"components": components}


def _shared(components: dict[str, Any], kind: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    """A reference to a value among the components, under a name that no other value has."""
    number, key = 1, name
    while components[kind].setdefault(key, value) != value:
        number += 1
        key = f"{name}_{number}"
    return {"$ref": f"#/components/{kind}/{key}"}


ANSWER_REF = {"$ref": "#/components/schemas/Answer"}


def _parameters(kind: type[Question[Any]], more: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    needed = required_of(kind)
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": schema}
        for name, schema in (schema_of(kind) | more).items()
    ]


def _responses(media_type: str, schema: dict[str, Any], extra: dict[str, str] | None = None) -> dict[str, Any]:
    done = {"200": {"description": "The answer.", "content": {media_type: {"schema": schema}}}}
    problem = {KIND: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    problems = {
        status: {"description": text, "content": problem} for status, text in {**_PROBLEMS, **(extra or {})}.items()
    }
    return done | problems
