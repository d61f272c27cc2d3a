"""Random messages for hypothesis, built from msgspec's description of a message class.

``valid(cls)`` draws fields that must be accepted, ``hostile(cls)`` the same with one to three of them
spoilt: a wrong type, a number out of range, NaN, deep nesting, odd keys, a missing or an extra field.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect as introspection
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

from agent.common import message
from agent.common.errors import InvalidMessage

# Longer lists and texts find nothing more and cost time; the bounds themselves have unit tests.
SIZE_MAX = 4
INT_MIN, INT_MAX = -(1 << 63), (1 << 64) - 1
# Deeper values have a separate test, because hypothesis itself could not print them.
DEEP_LEVELS = 100


def message_classes(module: ModuleType) -> list[type[Any]]:
    """Returns the dataclasses that are defined in a module, in the order of their names."""
    found = [
        each
        for _, each in introspection.getmembers(module, introspection.isclass)
        if each.__module__ == module.__name__ and dataclasses.is_dataclass(each)
    ]
    assert found, f"{module.__name__} defines no message"
    return found


def valid(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Returns fields of a message that ``decode`` must accept."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.DataclassType | inspect.StructType)
    return _fields(info)


def hostile(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Returns fields of a message, some of them spoilt; they may still happen to be valid."""
    return st.one_of(
        st.builds(_spoil, valid(cls), st.lists(spoilers(), min_size=1, max_size=3), st.randoms()), junk()
    )


def junk() -> st.SearchStrategy[Any]:
    """Returns values that no field should accept, but that msgpack could deliver."""
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(INT_MIN, INT_MAX),
        st.sampled_from([INT_MIN, INT_MAX, 1 << 63, -1, 0, 1 << 32]),
        st.floats(),
        st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -0.0]),
        st.text(max_size=8),
        st.builds(_long, st.sampled_from([300, 70_000])),
        st.binary(max_size=8),
        st.just([]),
        st.just({}),
        st.builds(_nested, st.integers(1, DEEP_LEVELS)),
    )
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=SIZE_MAX),
            st.dictionaries(
                st.one_of(st.text(max_size=4), st.integers(-2, 2), st.binary(max_size=2), st.none()),
                inner,
                max_size=SIZE_MAX,
            ),
        ),
        max_leaves=6,
    )


def spoilers() -> st.SearchStrategy[tuple[str, Any]]:
    """Returns changes of a field: replace it, drop it, or add another one."""
    return st.tuples(st.sampled_from(["replace", "replace", "drop", "add"]), junk())


def check(cls: type[Any], fields: Any) -> Any:
    """Decodes hostile fields and returns the message, or None when it was refused properly.

    A message that is accepted must survive its own encoding: then it holds nothing that ``encode`` or a
    peer could not handle.
    """
    try:
        found = message.decode(cls, fields)
    except InvalidMessage:
        return None
    again = message.decode(cls, message.encode(found))
    assert again == found
    return found


def _long(size: int) -> str:
    return "x" * size


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def _spoil(fields: Any, spoilings: list[tuple[str, Any]], chance: Any) -> Any:
    spoilt = copy.deepcopy(fields)
    for action, value in spoilings:
        places = list(_places(spoilt))
        holder, key = chance.choice(places) if places else (spoilt, "extra")
        if action == "add":
            target: Any = chance.choice([spoilt, *(h for h, _ in places if isinstance(h, dict))])
            if isinstance(target, list):
                target.append(value)
            else:
                target[f"extra{chance.randrange(9)}"] = value
        elif action != "drop":
            holder[key] = value
        elif places:
            del holder[key]
    return spoilt


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each (container, key) within a value."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(len(value) - 1, -1, -1):
            yield value, index
            yield from _places(value[index])


def _longest(low: int | None, high: int | None) -> int:
    """Returns the greatest length to draw for values whose length is from ``low`` to ``high``."""
    longest = (low or 0) + SIZE_MAX
    return longest if high is None else min(high, longest)


def _fields(info: inspect.DataclassType | inspect.StructType) -> st.SearchStrategy[Any]:
    if isinstance(info, inspect.StructType) and info.array_like:
        return st.tuples(*(_of(field.type) for field in info.fields)).map(list)
    required = {field.encode_name: _of(field.type) for field in info.fields if field.required}
    optional = {field.encode_name: _of(field.type) for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional)


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Returns valid values of one type; a test fails here when a message uses a type without a rule."""
    strategy = _plain(info)
    return strategy if strategy is not None else _composed(info)


def _plain(info: inspect.Type) -> st.SearchStrategy[Any] | None:
    match info:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(INT_MIN if low is None else low, INT_MAX if high is None else high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case inspect.StrType(min_length=low, max_length=high, pattern=None):
            return st.text(min_size=low or 0, max_size=_longest(low, high))
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=_longest(low, high))
        case inspect.LiteralType(values=values):
            return st.sampled_from(list(values))
        case inspect.EnumType(cls=cls):
            return st.sampled_from([each.value for each in cls])
        case inspect.AnyType():
            return st.one_of(st.none(), st.integers(0, 9), st.text(max_size=SIZE_MAX))
    return None


def _composed(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(_of, items)).map(list)
        case (
            inspect.VarTupleType(item_type=item, min_length=low, max_length=high)
            | inspect.ListType(item_type=item, min_length=low, max_length=high)
        ):
            return st.lists(_of(item), min_size=low or 0, max_size=_longest(low, high))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=SIZE_MAX)
        case inspect.UnionType(types=types):
            return st.one_of(*map(_of, types))
        case inspect.DataclassType() | inspect.StructType():
            return st.deferred(lambda: _fields(info))
    raise AssertionError(f"no rule for {info}")
