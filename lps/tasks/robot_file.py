"""The keys of a robot's TOML file, with their types and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from lps.data.recipe import Rule, Scale
from lps.errors import UserError


def _size(value: Any) -> Any:
    sizes = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(type(size) is int and 1 <= size <= 4096 for size in sizes):
        raise ValueError("give a number of numbers, or [height, width] of a camera")
    return value


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")]
Columns = Annotated[list[str], Field(min_length=1)]


class _Array(_Table):
    columns: Columns
    size: Annotated[Any, AfterValidator(_size)]


class _Action(_Table):
    columns: Columns
    size: Annotated[int, Field(ge=1, le=4096)]
    scale: Scale = "none"


class _Reward(_Table):
    rule: Rule = "file"
    column: str = ""
    done: str = ""
    success: str = ""
    shift: FiniteFloat = 0.0
    failure: FiniteFloat | None = None
    end: Annotated[int, Field(ge=1, le=10_000)] = 1
    costs_after_end: bool = False


class _File(_Table):
    name: Name
    dataset: Annotated[str, StringConstraints(pattern=r"^\P{C}{1,200}$")]
    rate: Annotated[float, Field(gt=0, le=10_000)]
    horizon: Annotated[int, Field(ge=1, le=1000)]
    max_episode_steps: Annotated[int, Field(ge=2, le=10**9)] = 1000
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    simulator: str = ""
    observation: Annotated[dict[Name, _Array], Field(min_length=1)]
    action: _Action
    reward: _Reward = _Reward()
    format: dict[str, bool | str] = {}


def parsed(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the content of a file with all defaults, as plain values.  UserError that names the key."""
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            raise UserError(f"{path} lacks the key {key}. Add it (docs/robots.md)") from None
        if problem["type"] == "extra_forbidden":
            table = _keys(problem["loc"][:-1])
            raise UserError(f"{path} has the unknown key {key}. Use one of {table}") from None
        what = problem["msg"].removeprefix("Value error, ").replace("Input should be", "It must be")
        raise UserError(f"{path}: the key {key} is {problem['input']!r:.80}. {what[:1].upper()}{what[1:]}") from None
    for name, array in found.observation.items():
        if isinstance(array.size, list) and len(array.columns) != 1:
            raise UserError(
                f"{path}: the key observation.{name}.columns has {len(array.columns)} cameras. Give each camera a "
                "table of its own"
            )
    content = found.model_dump()
    if not found.simulator:
        del content["simulator"]  # the key came later: ids of older runs are hashes without it
    return content


def _keys(place: tuple[Any, ...]) -> str:
    tables: dict[str, type[_Table]] = {"observation": _Array, "action": _Action, "reward": _Reward}
    table = tables.get(str(place[0]), _File) if place else _File
    return ", ".join(table.model_fields)
