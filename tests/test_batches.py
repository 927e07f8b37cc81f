"""Batches of images: which rows, from where, stacked and cropped."""

import numpy as np
import pytest
import torch
from small import IMAGES, made_up_data, make_agent

from lps.data.augment import PADDING, augmented, random_crop
from lps.data.batches import Batches
from lps.members.streams import Stream
from lps.training.program import _draw

TASK, HORIZON, SIZE = "a", 3, 16
DATA = made_up_data(TASK, IMAGES)


def batches_of(seeds, room=None, frame_stack=1, share=True):
    tasks, discounts = [TASK] * len(seeds), [0.9] * len(seeds)
    own = {"frame_stack": frame_stack, "seeds": seeds if share else None, "room": room}
    return Batches(DATA, tasks, discounts, HORIZON, **own)


def drawn(batches, seeds, step, ahead=None):
    return batches.sample(Stream(torch.tensor(seeds), step, "batch"), SIZE, ahead(step) if ahead else None)


def assert_equal(ours, theirs):
    for name in ("observations", "next_observations"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert list(a) == list(b) == list(IMAGES)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(ours.actions, theirs.actions) and torch.equal(ours.rewards, theirs.rewards)


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_a_stack_ends_at_its_row_and_repeats_the_first_row_of_the_episode(frame_stack):
    seeds = [3, 1]
    batches = batches_of(seeds, frame_stack=frame_stack)
    start = batches.starts[Stream(torch.tensor(seeds), 1, "batch").integers(len(batches.starts), SIZE)]
    batch = drawn(batches, seeds, 1)
    for member in range(2):
        for b, row in enumerate(start[member].tolist()):
            for seen, at in ((batch.observations, row), (batch.next_observations, row + HORIZON)):
                rows = [max(at - age, 20 * (at // 20)) for age in reversed(range(frame_stack))]
                for name in ("front", "wrist"):
                    expected = np.concatenate([DATA.observations[name][r] for r in rows], axis=-1)
                    assert seen[name].dtype == torch.uint8
                    np.testing.assert_array_equal(seen[name][member, b], expected)
                np.testing.assert_array_equal(seen["state"][member, b], DATA.observations["state"][at])


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("seeds", [[3, 1], [3, 3], [3, 1, 3]])
def test_images_from_host_memory_are_those_of_the_device(seeds, frame_stack):
    """Also after a jump, as when training resumes, and where members share the rows of one seed."""
    device = batches_of(seeds, frame_stack=frame_stack, share=False)
    host = batches_of(seeds, room=DATA.image_bytes - 1, frame_stack=frame_stack)
    ahead = host.ahead(SIZE)
    assert host.on_host and ahead is not None
    for step in (1, 2, 3, 7, 8, 2):
        assert_equal(drawn(host, seeds, step, ahead), drawn(device, seeds, step))
    assert_equal(
        host.at(device.starts[:SIZE].expand(len(seeds), -1)), device.at(device.starts[:SIZE].expand(len(seeds), -1))
    )


def test_images_with_room_are_on_the_device():
    assert batches_of([3], room=DATA.image_bytes).ahead(SIZE) is None


def test_members_of_one_seed_read_their_images_once(monkeypatch):
    read, frames = [], Batches.frames
    monkeypatch.setattr(Batches, "frames", lambda self, start: read.append(start.shape) or frames(self, start))
    seeds = [3, 1, 3, 3]
    assert_equal(drawn(batches_of(seeds), seeds, 1), drawn(batches_of(seeds, share=False), seeds, 1))
    assert read == [(2, SIZE), (4, SIZE)]


def test_a_crop_is_a_cut_of_the_image_with_repeated_edges():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 8, 10, 3), np.uint8)
    offsets = rng.integers(0, 2 * PADDING + 1, (2, 5, 2))
    found = random_crop(torch.from_numpy(images), torch.from_numpy(offsets)).numpy()
    for m, b in np.ndindex(2, 5):
        padded = np.pad(images[m, b], ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="edge")
        down, right = offsets[m, b]
        np.testing.assert_array_equal(found[m, b], padded[down : down + 8, right : right + 10])


def test_a_coin_for_each_batch_and_member_and_the_same_offsets_for_all_images():
    seeds = torch.arange(300)
    shape = {"state": (300, 4, 2), "front": (300, 4, 9, 9, 1), "wrist": (300, 4, 9, 9, 1)}
    place = torch.arange(81, dtype=torch.uint8).view(9, 9, 1)  # a pixel tells where it came from
    images = {name: place.expand(s) for name, s in shape.items() if name != "state"}
    batch = drawn(batches_of(list(range(300))), list(range(300)), 1)
    batch.observations = batch.next_observations = {**images, "state": torch.zeros(shape["state"])}
    batch.actions = batch.actions[:, :4]

    def offsets(probability, step=5):
        out = augmented(batch, Stream(seeds, step, "augment"), torch.full((300,), probability))
        arrays = [seen[name] for seen in (out.observations, out.next_observations) for name in images]
        assert all(torch.equal(array, arrays[0]) for array in arrays)
        assert torch.equal(out.observations["state"], batch.observations["state"])
        centre = arrays[0][:, :, 4, 4, 0].long()
        return torch.stack((centre // 9 - 4, centre % 9 - 4), -1)

    assert not offsets(0.0).any()
    moved = offsets(0.5).flatten(1).any(1)
    assert 120 < moved.sum() < 180
    always = offsets(1.0)
    assert torch.equal(offsets(0.5)[moved], always[moved]), "the coin does not change the offsets"
    assert set(always.unique().tolist()) == set(range(-PADDING, PADDING + 1))
    assert not torch.equal(always[..., 0], always[..., 1]) and not torch.equal(always, offsets(1.0, 6))


@pytest.mark.parametrize("p_aug", [0.0, 0.5])
def test_a_drawn_batch_is_cropped_with_the_probability_of_its_agent(p_aug):
    seeds = torch.tensor([3, 1])
    agent, batches = make_agent("flow_bc", [3, 1], [{"p_aug": p_aug}] * 2, IMAGES), batches_of([3, 1])
    cropped = []
    for step in range(1, 11):
        batch, _ = _draw(agent, batches, seeds, step)
        plain = drawn(batches, [3, 1], step)
        cropped += [not torch.equal(batch.observations["front"][m], plain.observations["front"][m]) for m in range(2)]
    assert (0 < sum(cropped) < 20) == (p_aug > 0)
