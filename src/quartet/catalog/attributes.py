"""A category's attributes: its JSON Schema, the validation of products against it, and the filters that it allows."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from quartet.catalog.model import Category
from quartet.kernel.errors import Invalid, invalid

MOST_ATTRIBUTES = 100
LONGEST_TEXT = 1000
LONGEST_LIST = 100
SCALARS = ("string", "integer", "number", "boolean")
OPS = ("eq", "gte", "lte", "gt", "lt")
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIALECTS: dict[str, Any] = {
    DIALECT: Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": Draft201909Validator,
    "http://json-schema.org/draft-07/schema#": Draft7Validator,
}

# A name becomes part of a field path in a MongoDB query, so it is a plain word: no dot, no dollar, no quote.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?")
# Keywords by which a JSON Schema could refer to the network or endlessly to itself, or hide a pattern.
_REFUSED = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "$id", "$vocabulary", "patternProperties"})
# Patterns run on staff's input in a process that serves shoppers at the same time, so backtracking is limited:
# anchored, no groups, so that the worst case is the product of the lengths of the open repetitions.
_ONE = r"\\[^0-9A-Za-z]|\\[dsw]|\[[^\[\]\\]+\]|[^\\\[\](){}*+?|^$]"
_PATTERN = re.compile(rf"\^(?:(?:{_ONE})(?:\{{\d{{1,3}}(?:,\d{{0,3}})?\}}|[*+?])?)*\$")
_REPEAT = re.compile(r"(?<!\\)(?:\{\d+,(\d*)\}|[*+])")
_MOST_STEPS = LONGEST_TEXT**2


class Fault(NamedTuple):
    """A validation error of one field."""

    field: str
    message: str


@dataclass(frozen=True)
class Condition:
    """`name op value`, with the value in the attribute's type by the category's schema. `listed`: the attribute is a
    list, one of whose members has to equal the value."""

    name: str
    op: str
    value: str | int | float | bool
    listed: bool


def refuse(faults: Sequence[Fault]) -> None:
    """Raises Invalid with all faults, if there are any."""
    if faults:
        raise Invalid(
            "; ".join(f"{f.field}: {f.message}" for f in faults[:5]),
            errors=[{"field": f.field, "message": f.message} for f in faults],
        )


# The schema


def check_schema(schema: Mapping[str, Any]) -> None:
    """Checks a category's schema: valid JSON Schema (2020-12, or by `$schema` 2019-09 or draft 7) of an object whose
    properties are texts, numbers, booleans or lists of them. Raises Invalid naming `attrs…`."""
    if schema.get("type") != "object":
        raise invalid("attrs.type", 'must be "object"')
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect not in DIALECTS:
        raise invalid("attrs.$schema", f"must be one of {', '.join(DIALECTS)}, or left out")
    refuse(list(_unsafe(schema, "attrs")))
    try:
        DIALECTS[dialect].check_schema(schema)
    except SchemaError as error:
        path = ".".join(["attrs", *(str(part) for part in error.absolute_path)])
        raise invalid(path, _short(error.message)) from None
    properties = schema.get("properties", {})
    if len(properties) > MOST_ATTRIBUTES:
        raise invalid("attrs.properties", f"must be at most {MOST_ATTRIBUTES}")
    refuse([fault for name, attribute in properties.items() for fault in _declared_faults(name, attribute)])


def _unsafe(node: Any, field: str) -> Iterator[Fault]:
    """What the meta-schema allows but is not safe for us."""
    if isinstance(node, list):
        for position, child in enumerate(node):
            yield from _unsafe(child, f"{field}.{position}")
    elif isinstance(node, dict):
        for name, child in node.items():
            at = f"{field}.{name}"
            if name in _REFUSED and not field.endswith(".properties"):
                yield Fault(at, "is not supported in a category's schema")
            elif name == "pattern" and isinstance(child, str):
                yield from _pattern_faults(at, child)
            else:
                yield from _unsafe(child, at)


def _pattern_faults(field: str, pattern: str) -> Iterator[Fault]:
    if not _PATTERN.fullmatch(pattern):
        yield Fault(field, "must start with ^ and end with $, and have neither groups nor alternatives")
        return
    steps = 1
    for most in _REPEAT.findall(pattern):
        steps *= int(most) + 1 if most else LONGEST_TEXT
    if steps > _MOST_STEPS:
        yield Fault(field, "has too many open repetitions")
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield Fault(field, f"is not a regular expression: {error}")


def _declared_faults(name: str, attribute: Any) -> Iterator[Fault]:
    field = f"attrs.properties.{name}"
    if not NAME.fullmatch(name):
        yield Fault(field, "an attribute's name is a letter, then letters, digits and _")
    elif not isinstance(attribute, dict) or _kind(attribute) is None:
        yield Fault(f"{field}.type", f"must be one of {', '.join(SCALARS)}, or array of one of them")


def _kind(attribute: Mapping[str, Any]) -> tuple[str, bool] | None:
    """The type of one value, and whether the attribute is a list of them; None if it is neither."""
    type_ = _type(attribute)
    if type_ in SCALARS:
        return type_, False
    items = attribute.get("items")
    if type_ == "array" and isinstance(items, dict) and (member := _type(items)) in SCALARS:
        return member, True
    return None


def _type(schema: Mapping[str, Any]) -> str | None:
    """The single type that a schema names, or that all values of its `enum` or `const` have."""
    named = schema.get("type")
    if named is None:
        listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
        named = list({_TYPES.get(type(value), "object") for value in listed})
    if isinstance(named, list):  # ["string", "null"] is a string
        named = sorted(each for each in named if each != "null")
        named = "number" if named == ["integer", "number"] else named[0] if len(named) == 1 else None
    return named if isinstance(named, str) else None


# Products


def attribute_faults(category: Category, attrs: Mapping[str, Any], field: str, *, own: Collection[str]) -> list[Fault]:
    """Validation errors of a product's or a variant's attributes. Attributes in `own` are reported under `field`
    (`variants.0.attrs`), the others under the product's `attrs`."""
    faults = []
    for error in _validator(orjson.dumps(category.attrs)).iter_errors(dict(attrs)):
        names, message = _named(error, attrs)
        faults += [Fault(f"{field if name in own else 'attrs'}.{name}" if name else "attrs", message) for name in names]
    return faults


def _named(error: ValidationError, attrs: Mapping[str, Any]) -> tuple[list[str], str]:
    """The attributes that an error is about, and the message."""
    schema = error.schema if isinstance(error.schema, dict) else {}
    if error.absolute_path:
        return [str(error.absolute_path[0])], _short(error.message)
    if error.validator == "required":
        return [name for name in schema["required"] if name not in attrs], "is required in this category"
    if error.validator in ("additionalProperties", "unevaluatedProperties"):
        known = schema.get("properties", {})
        return [name for name in attrs if name not in known], "is not an attribute of this category"
    return [""], _short(error.message)


def are_same(one: Any, other: Any) -> bool:
    """Equality as JSON, in which 1, 1.0 and true are different."""
    sort = orjson.OPT_SORT_KEYS
    return one == other and orjson.dumps(one, option=sort) == orjson.dumps(other, option=sort)


def plain_faults(attrs: Mapping[str, Any], field: str, *, lists: bool) -> list[Fault]:
    """Errors under any category's schema: names that are not plain words, values that are objects, numbers past 64
    bits."""
    if len(attrs) > MOST_ATTRIBUTES:
        return [Fault(field, f"must be at most {MOST_ATTRIBUTES}")]
    faults = []
    for name, value in attrs.items():
        if not NAME.fullmatch(name):
            faults.append(Fault(f"{field}.{name[:80]}", "an attribute's name is a letter, then letters, digits and _"))
        elif isinstance(value, list) and lists:
            if len(value) > LONGEST_LIST:
                faults.append(Fault(f"{field}.{name}", f"must have at most {LONGEST_LIST} members"))
            faults += [Fault(f"{field}.{name}.{i}", wrong) for i, each in enumerate(value) if (wrong := _plain(each))]
        elif wrong := _plain(value):
            faults.append(Fault(f"{field}.{name}", wrong))
    return faults


def _plain(value: Any) -> str | None:
    if isinstance(value, str):
        return f"must have at most {LONGEST_TEXT} characters" if len(value) > LONGEST_TEXT else None
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "must fit into 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "must be finite"
    return "must be a text, a number or a boolean"


@lru_cache(256)
def _validator(schema: bytes) -> Any:
    read = orjson.loads(schema)
    return DIALECTS[read.get("$schema", DIALECT)](read)


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:197]}…"


# Filters


def condition(parameter: str, text: str, categories: Collection[Category]) -> Condition:
    """Parses `attrs.ram_gb.gte=32` by the categories' schemas. Raises Invalid naming the parameter: no such attribute,
    no such comparison, not a value of its type. If the categories differ in the type (sizes 42 and L), the narrowest
    one that the text fits is taken."""
    _, _, rest = parameter.partition(".")
    name, _, op = rest.partition(".")
    op = op or "eq"
    properties = [c.attrs["properties"][name] for c in categories if name in c.attrs.get("properties", {})]
    kinds = sorted({kind for kind in map(_kind, properties) if kind}, key=lambda kind: _NARROWEST.index(kind[0]))
    if not kinds:
        raise invalid(f"attrs.{name}", "is not an attribute that can be asked for here")
    if op not in OPS:
        raise invalid(parameter, f"{op} is none of {', '.join(OPS)}")
    if op != "eq":
        kinds = [(type_, listed) for type_, listed in kinds if type_ in ("integer", "number") and not listed]
        if not kinds:
            raise invalid(parameter, "only single numbers can be compared")
    for type_, listed in kinds:
        value = _value(text, type_)
        if value is not None:
            return Condition(name, op, value, listed)
    raise invalid(parameter, f"must be {' or '.join(_WANTED[type_] for type_, _ in kinds)}")


_NARROWEST = ("boolean", "integer", "number", "string")
_WANTED = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text"}


def _value(text: str, type_: str) -> str | int | float | bool | None:
    """The text as a value of the type; None if it isn't one."""
    match type_:
        case "boolean":
            return text == "true" if text in ("true", "false") else None
        case "integer":
            return int(text) if _INTEGER.fullmatch(text) else None
        case "number":
            return float(text) if _NUMBER.fullmatch(text) else None
    return text
