"""A recipe: what a task takes from recordings, and the dataset that it gives.

Actions are scaled, images resized, rewards and masks given by a rule, and some episodes held out.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lps.data.cache import cached, mapped
from lps.data.episodes import Dataset
from lps.data.readers import Episode, Needs, load
from lps.data.recordings import Recording, Recordings, open_recordings
from lps.errors import UserError
from lps.spaces import Space

Scale = Literal["none", "min_max", "quantiles", "mean_std"]
Rule = Literal["file", "dense", "sparse"]

DEVIATIONS = 3.0
"""Standard deviations from the mean to an action of 1, with the scale "mean_std"."""

FAILURE = {"dense": -100.0, "sparse": 0.0}
"""Reward at the end of a failure by rule.  The LPS authors use -100 with dense rewards."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardRule:
    """Rewards and masks of an episode of n actions, numbered from 0.  Its end is action e = n - `end`.

    | rule | reward | mask |
    | --- | --- | --- |
    | file | the column of rewards, plus `shift` | 0 where the column of done is true |
    | dense | -1 before e, 0 from e on; `failure` at e of a failure | 0 from e on |
    | sparse | 0; at e, 1 for a success and `failure` for a failure | 0 from e on |

    An episode is a success unless its files say otherwise.
    """

    rule: Rule = "file"
    column: str = ""
    """Column of rewards; "": the format's own."""
    done: str = ""
    """Column that is true where nothing comes after the step; "": the format's own."""
    success: str = ""
    """Column that is true in some row of a success; "": the format's own, or the folder's name."""
    shift: float = 0.0
    failure: float | None = None
    """None: see FAILURE."""
    end: int = 1
    costs_after_end: bool = False
    """Whether dense rewards stay -1 after e, as in the LPS authors' reader."""


@dataclass(frozen=True)
class Recipe:
    """See above."""

    observations: Mapping[str, tuple[tuple[str, ...], Space]]
    """Columns and space of each array of an observation.  Several columns are joined."""
    action: tuple[tuple[str, ...], int]
    """Columns and length of an action."""
    scale: Scale = "none"
    reward: RewardRule = field(default_factory=RewardRule)
    held_out: float = 0.1
    """Share of the episodes that training does not see; 0 for none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the format."""


def load_recipe(path: Path, recipe: Recipe, task: str, horizon: int) -> Dataset:
    """Return the dataset of a task, with its held-out episodes.

    UserError: an unknown format or column, another shape, NaN, damaged files, no rewards, too few episodes.
    """
    recordings = open_recordings(path, recipe.options)
    rule = _filled(recipe.reward, recordings)
    _check(recipe, recordings)
    training, held_out = split(len(recordings.lengths), recipe.held_out, path)
    order = [*training, *held_out]
    settings = json.dumps([asdict(recipe), asdict(rule)], sort_keys=True)

    def write_index(folder: Path) -> None:
        columns = {name: recordings.columns[name] for name in (*recipe.action[0], *_of_rule(rule))}
        actions, rows = [], []
        for place, recording in enumerate(recordings.read(order, columns)):
            found = _actions(recording, recipe)
            _, masks = rewards_and_masks(recording, len(found), rule, f"{path}, episode {order[place]}")
            rows.append(len(found) + (recordings.last_observation or not masks[-1]))
            actions += [found] if place < len(training) else []
        np.save(folder / "bounds.npy", bounds(np.concatenate(actions), recipe.scale, path))
        np.save(folder / "rows.npy", np.array(rows))

    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    _, folder = cached(path, f"index-{key}", write_index)
    (low, high), rows = mapped(folder, "bounds"), mapped(folder, "rows")
    if short := int((rows <= horizon).sum()):
        log.warning("%d episodes of %s are shorter than the horizon: no chunk of %d actions fits", short, path, horizon)

    def episodes(_: Path, __: Needs) -> tuple[int, Iterator[Episode]]:
        return int(rows.sum()), _episodes(recordings, recipe, rule, order)

    spaces = {name: space for name, (_, space) in recipe.observations.items()}
    needs = Needs(spaces, low, high, (task,), clips=recipe.scale != "none", settings=settings)
    dataset = load(path, needs, episodes)
    first = int(rows[: len(training)].sum())
    return replace(_cut(dataset, slice(0, first)), held_out=_cut(dataset, slice(first, None)) if held_out else None)


def split(count: int, share: float, path: Path) -> tuple[list[int], list[int]]:
    """Return the numbers of the episodes to train on, and of those held out: `share` of them, spread evenly."""
    held = max(1, round(share * count)) if share else 0
    if held >= count:
        raise UserError(
            f"{path} has {count} episodes, and {held} of them would be held out. Record more episodes, or write "
            "held_out = 0"
        )
    out = {int((number + 0.5) * count / held) for number in range(held)}
    return [number for number in range(count) if number not in out], sorted(out)


def bounds(actions: np.ndarray, scale: Scale, path: Path) -> np.ndarray:
    """Return the actions that become -1 and 1, (2, act) float32, for actions (n, act) and a kind of scale."""
    if not (finite := np.isfinite(actions).all(1)).all():
        raise UserError(
            f"{path}: action number {int(np.argmin(finite))} is NaN or infinite. Repair or remove that episode"
        )
    if scale == "none":
        low, high = -np.ones(actions.shape[1]), np.ones(actions.shape[1])
    elif scale == "min_max":
        low, high = actions.min(0), actions.max(0)
    elif scale == "quantiles":
        low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    else:
        mean, deviation = actions.mean(0), DEVIATIONS * actions.std(0)
        low, high = mean - deviation, mean + deviation
    constant = high - low < 1e-6
    return np.stack([np.where(constant, low - 1, low), np.where(constant, high + 1, high)]).astype(np.float32)


def rewards_and_masks(recording: Recording, steps: int, rule: RewardRule, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards and masks, (steps,) float32 each; see RewardRule.  UserError, which names `where`, for an episode
    that is shorter than its end."""
    rewards, masks = np.zeros(steps, np.float32), np.ones(steps, np.float32)
    if rule.rule == "file":
        rewards += recording.columns[rule.column].reshape(steps, -1)[:, 0].astype(np.float32) + np.float32(rule.shift)
        if rule.done:
            masks[recording.columns[rule.done].reshape(steps, -1)[:, 0].astype(bool)] = 0
        return rewards, masks
    if steps <= rule.end:
        raise UserError(
            f"{where} has {steps} actions, and the last {rule.end} are its end. Remove the episode, or write a smaller "
            "end"
        )
    end = steps - rule.end
    success = recording.success
    if rule.success in recording.columns:
        success = bool(recording.columns[rule.success].any())
    failure = FAILURE[rule.rule] if rule.failure is None else rule.failure
    masks[end:] = 0
    if rule.rule == "dense":
        rewards[: steps if rule.costs_after_end else end] = -1
    rewards[end] = failure if success is False else rule.rule == "sparse"
    return rewards, masks


def _episodes(recordings: Recordings, recipe: Recipe, rule: RewardRule, order: Sequence[int]) -> Iterator[Episode]:
    columns = {
        **{name: recordings.columns[name] for name in (*recipe.action[0], *_of_rule(rule))},
        **_observed(recipe, recordings),
    }
    for number, recording in zip(order, recordings.read(order, columns), strict=True):
        actions = _actions(recording, recipe)
        where = f"{recordings.path}, episode {number}"
        rewards, masks = rewards_and_masks(recording, len(actions), rule, where)
        steps = len(actions)
        observations = {}
        for name, (names, space) in recipe.observations.items():
            rows = recording.columns[names[0]] if space.is_image else _joined([recording.columns[n] for n in names])
            observations[name] = rows if space.is_image else rows.astype(space.dtype)
        if not recordings.last_observation and not masks[-1]:  # nothing comes after: any observation will do
            observations = {name: np.concatenate([rows, rows[-1:]]) for name, rows in observations.items()}
        elif not recordings.last_observation:
            steps -= 1
        yield Episode(observations, actions[:steps], {"": rewards[:steps]}, {"": masks[:steps]})


def _filled(rule: RewardRule, recordings: Recordings) -> RewardRule:
    """The rule with the format's own columns where it names none.  UserError where there are no rewards."""
    roles = recordings.roles
    filled = replace(
        rule,
        column=rule.column or roles.reward,
        done=rule.done or roles.done,
        success=rule.success or roles.success,
    )
    if rule.rule == "file" and not filled.column:
        raise UserError(
            f"reward.rule is 'file', but {recordings.path} has no column of rewards. Write rule = \"dense\" or "
            '"sparse", or name the column'
        )
    for key, column in (("column", filled.column), ("done", filled.done), ("success", filled.success)):
        if column:
            recordings.check({column: recordings.columns.get(column, Space(()))}, f"reward.{key}")
    return filled


def _of_rule(rule: RewardRule) -> tuple[str, ...]:
    """The columns that a rule reads."""
    return tuple(filter(None, (rule.column, rule.done) if rule.rule == "file" else (rule.success,)))


def _observed(recipe: Recipe, recordings: Recordings) -> dict[str, Space]:
    """The columns of the observations, images in the size of the task."""
    return {
        column: space if space.is_image else recordings.columns[column]
        for columns, space in recipe.observations.values()
        for column in columns
    }


def _check(recipe: Recipe, recordings: Recordings) -> None:
    """UserError where a column does not exist or has another shape than the recipe says."""
    for name, (columns, space) in recipe.observations.items():
        where = f"observation.{name}"
        recordings.check({column: recordings.columns.get(column, space) for column in columns}, where)
        if space.is_image:
            recordings.check({columns[0]: space}, where)
        else:
            _check_size(recordings, columns, space.shape[0], where)
    columns, size = recipe.action
    recordings.check({column: recordings.columns.get(column, Space((size,))) for column in columns}, "action")
    _check_size(recordings, columns, size, "action")


def _check_size(recordings: Recordings, columns: Sequence[str], size: int, where: str) -> None:
    found = sum(int(np.prod(recordings.columns[column].shape)) for column in columns)
    if found != size:
        raise UserError(
            f"{where}: the columns {', '.join(columns)} of {recordings.path} have {found} numbers, not {size}. Write "
            f"size = {found}"
        )


def _actions(recording: Recording, recipe: Recipe) -> np.ndarray:
    return _joined([recording.columns[name] for name in recipe.action[0]]).astype(np.float32)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(n, d) from arrays (n, *)."""
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _cut(dataset: Dataset, rows: slice) -> Dataset:
    return replace(
        dataset,
        observations={name: array[rows] for name, array in dataset.observations.items()},
        actions=dataset.actions[rows],
        terminals=dataset.terminals[rows],
        rewards=dataset.rewards[:, rows],
        masks=dataset.masks[:, rows],
    )
