"""Describe recordings in words and numbers: episodes, columns, rewards, successes, actions, and what is left out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lps.data.recordings import Recordings, camera_name
from lps.errors import UserError
from lps.files import csv_cell, local_path, replacing

BINS = 40
"""Bins of a histogram, from the smallest to the largest value."""
BARS = "▁▂▃▄▅▆▇█"
QUANTILES = (0.01, 0.5, 0.99)
CAMERA = 64
"""Largest height and width of a camera in a task file that is written here."""
SHOWN = 5
"""Most reasons that are shown for left out files."""


class Histogram(NamedTuple):
    """Distribution of one number of the actions over all steps."""

    name: str
    values: np.ndarray
    """(n,)."""

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts (BINS,) and edges (BINS + 1,)."""
        return np.histogram(self.values, BINS)

    @property
    def line(self) -> str:
        """The histogram as a line of bars; a blank for an empty bin."""
        counts = self.counts[0]
        tops = np.ceil(counts / max(1, counts.max()) * len(BARS)).astype(int)
        return "".join(BARS[top - 1] if top else " " for top in tops)


class Description(NamedTuple):
    """What `lps data describe` says."""

    lines: Sequence[str]
    histograms: Sequence[Histogram]


def describe(recordings: Recordings, horizon: int) -> Description:
    """Read all columns but images of all episodes, and describe them.  UserError for damaged files."""
    roles, every = recordings.roles, range(len(recordings.lengths))
    low = {name: space for name, space in recordings.columns.items() if not space.is_image}
    wanted = (*roles.state, *roles.action, roles.reward, roles.success, "timestamp")
    columns = {name: low[name] for name in wanted if name in low}
    found = list(recordings.read(every, columns))
    arrays = {name: [_flat(recording.columns[name]) for recording in found] for name in columns}
    lengths = np.array(recordings.lengths)
    histograms = [
        Histogram(f"{name}[{number}]", column)
        for name in roles.action
        for number, column in enumerate(np.concatenate(arrays[name]).T.astype(np.float64))
    ]
    successes = [recording.success for recording in found]
    lines = [
        f"{recordings.path}: {recordings.format}",
        *_lengths(recordings, lengths, horizon),
        *_columns(recordings),
        *_rewards(roles.reward, arrays.get(roles.reward)),
        _successes(successes),
        *_rate(arrays.get("timestamp"), recordings.rate),
        *_ranges(histograms),
        *_skipped(recordings.skipped),
    ]
    return Description(lines, histograms)


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


def _lengths(recordings: Recordings, lengths: np.ndarray, horizon: int) -> Iterator[str]:
    seconds = f", {lengths.sum() / recordings.rate:.1f} s at {recordings.rate:g} Hz" if recordings.rate else ""
    yield f"episodes: {len(lengths)} with {lengths.sum()} actions{seconds}"
    yield f"  actions per episode: {lengths.min()} to {lengths.max()}, median {np.median(lengths):g}"
    if short := int((lengths < horizon + (not recordings.last_observation)).sum()):
        yield f"  {short} episodes are too short for a chunk of {horizon} actions"


def _columns(recordings: Recordings) -> Iterator[str]:
    meaning = {name: role for role, names in recordings.roles._asdict().items() for name in _names(names)}
    yield "columns:"
    for name, space in recordings.columns.items():
        yield f"  {name:44s} {space!s:24s} {meaning.get(name, '')}".rstrip()


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _rewards(name: str, rewards: Sequence[np.ndarray] | None) -> Iterator[str]:
    if rewards is None:
        yield "rewards: none; give them by a rule, dense or sparse"
        return
    sums, flat = [float(part.sum()) for part in rewards], np.concatenate(rewards)
    yield (
        f"rewards: column {name}, {flat.min():g} to {flat.max():g}; sum of an episode {min(sums):g} to {max(sums):g}, "
        f"mean {np.mean(sums):.4g}"
    )


def _successes(successes: Sequence[bool | None]) -> str:
    known = [success for success in successes if success is not None]
    if not known:
        return "successes: unknown; a reward rule takes every episode for a success"
    return f"successes: {sum(known)} of {len(known)} episodes ({100 * sum(known) / len(known):.1f} %)"


def _rate(timestamps: Sequence[np.ndarray] | None, rate: float | None) -> Iterator[str]:
    if not timestamps or rate is None:
        return
    gaps = np.concatenate([np.diff(part[:, 0]) for part in timestamps])
    if len(gaps):
        yield f"rate: {rate:g} Hz; time between rows {1000 * gaps.min():.1f} to {1000 * gaps.max():.1f} ms"


def _ranges(histograms: Sequence[Histogram]) -> Iterator[str]:
    if not histograms:
        return
    header = ("action", "min", "1 %", "median", "99 %", "max", "mean", "std")
    yield "actions:"
    yield f"  {header[0]:36s}" + "".join(f"{word:>9s}" for word in header[1:])
    for name, values in histograms:
        low, middle, high = np.quantile(values, QUANTILES)
        numbers = (values.min(), low, middle, high, values.max(), values.mean(), values.std())
        yield f"  {name:36s}" + "".join(f"{number:9.3g}" for number in numbers)
    yield f"histograms, from min to max in {BINS} bins:"
    yield from (f"  {histogram.name:36s} |{histogram.line}|" for histogram in histograms)


def _skipped(skipped: Sequence[str]) -> Iterator[str]:
    yield f"left out: {len(skipped)}"
    yield from (f"  {sentence}" for sentence in skipped[:SHOWN])
    if len(skipped) > SHOWN:
        yield f"  and {len(skipped) - SHOWN} more"


def write_histograms(histograms: Sequence[Histogram], path: str) -> None:
    """Write a CSV file with the columns action, low, high, count.  UserError if it cannot be written."""
    file = local_path(path)
    try:
        with replacing(file) as part, open(part, "w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["action", "low", "high", "count"])
            for histogram in histograms:
                counts, edges = histogram.counts
                for row in zip(edges[:-1], edges[1:], counts, strict=True):
                    writer.writerow([csv_cell(histogram.name), *(number.item() for number in row)])
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}. Choose another file") from error


def write_task(recordings: Recordings, path: str, horizon: int) -> None:
    """Write a task file (lps.tasks.robot) with the columns of the format's conventions.  UserError if the file exists
    or cannot be written, or if the format does not say which columns are actions and observations."""
    file, roles, columns = local_path(path), recordings.roles, recordings.columns
    if not roles.action or not (roles.state or roles.cameras):
        raise UserError(f"{recordings.path} does not say its columns of actions and observations. Write {file} by hand")

    def size(names: Sequence[str]) -> int:
        return sum(int(np.prod(columns[name].shape)) for name in names)

    droid = recordings.format.startswith("DROID")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", recordings.path.name.partition(".")[0]).strip("-.") or "robot"
    unknown = "" if recordings.rate else "  # not in the files: write the control rate of the robot"
    lines = [
        f"name = {_quoted(name)}",
        f"dataset = {_quoted(recordings.path.name)}  # in the data folder",
        f"rate = {recordings.rate or 10:g}{unknown}",
        f"horizon = {horizon}",
    ]
    if roles.state:
        lines += ["", "[observation.state]", f"columns = {_quoted(list(roles.state))}", f"size = {size(roles.state)}"]
    for camera in roles.cameras:
        own = re.sub(r"[^A-Za-z0-9_]+", "_", camera_name(camera)) or "camera"
        own = own if own[0].isalnum() else f"camera{own}"
        lines += ["", f"[observation.{own}]", f"columns = {_quoted([camera])}"]
        lines += [f"size = {[min(CAMERA, side) for side in columns[camera].shape[:2]]}"]
    scale = "none" if droid else "quantiles"
    lines += ["", "[action]", f"columns = {_quoted(list(roles.action))}", f"size = {size(roles.action)}"]
    lines += [f"scale = {_quoted(scale)}", "", "[reward]", f'rule = "{"file" if roles.reward else "dense"}"']
    lines += [f"end = {max(1, horizon - 1)}"] if droid else []  # as in the LPS authors' reader
    if file.exists():
        raise UserError(f"{file} exists. Choose another file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}. Choose another file") from error


def _quoted(value: Any) -> str:
    """A text or a list of texts in TOML, which has JSON's form of both."""
    return json.dumps(value)
