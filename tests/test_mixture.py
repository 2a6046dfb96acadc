"""Mixtures and growing clips: exact ratio, homogeneous batches, and an order that depends on the seed and the consumed clips only."""

from collections import Counter

import pytest
import torch
from counted_clips import NumberClips, Numbers, Visits, as_process, record

from datamodules import Mixture, MovingDigits
from datamodules.base import StageOverride
from datamodules.loaders.order import choose_source
from datamodules.loaders.resumable import ResumableLoader
from datamodules.loaders.sources import DataSource
from modules.geometry import Clip


def mixed(parts, ratio, main):
    return Mixture(parts[main].clip, parts=parts, ratio=ratio, main=main)


def mixture(workers=0, **sizes):
    """Videos of 5 frames, clips 0..16, three a batch; images, clips 17..25, two a batch; every third batch has images."""
    sizes = {"clips": 3, "images": 2, **sizes}
    parts = {
        "clips": NumberClips(17, 5, batch_size=sizes["clips"], workers=workers),
        "images": NumberClips(9, 1, batch_size=sizes["images"]),
    }
    return mixed(parts, {"images": 1, "clips": 2}, "clips")


def growing(workers=0):
    """Images up to step 4, 5 frames up to step 9, then 9 frames."""
    return NumberClips(17, 9, workers=workers, milestones={4: StageOverride(frames=1, batch_size=5), 9: StageOverride(frames=5)})


def first_batches(data, batches):
    """Frames and clips of the first batches."""
    loader, seen = data.train_dataloader(), []
    while len(seen) < batches:
        seen += [(batch["video"].shape[2], batch["index"].tolist()) for batch in loader]
    return seen[:batches]


def test_sources_keep_their_weights_at_any_time():
    for weights in [[1, 1], [1, 0, 2], [0.02, 0.98], [5, 4, 3, 2, 1, 0.5, 0.1], [1]]:
        counts = [0] * len(weights)
        for step in range(3000):
            counts[choose_source(step, weights, seed=7)] += 1
            worst = max(abs(count - (step + 1) * weight / sum(weights)) for count, weight in zip(counts, weights, strict=True))
            assert worst < 3, (step, counts)
        assert all(count == 0 for count, weight in zip(counts, weights, strict=True) if weight == 0)


def test_the_order_of_sources_follows_the_seed_and_has_no_period():
    first, second = ([choose_source(step, [1, 1], seed) for step in range(500)] for seed in (0, 1))
    assert first != second
    assert all(first[:250] != first[shift : 250 + shift] for shift in range(1, 250))


def test_a_batch_is_of_one_part_and_has_its_size():
    seen = first_batches(mixture(), 300)
    assert all(frames == (5 if numbers[0] < 17 else 1) and len(numbers) == (3 if frames == 5 else 2) for frames, numbers in seen)
    assert all((number < 17) == (frames == 5) for frames, numbers in seen for number in numbers)
    assert abs(sum(frames == 1 for frames, _ in seen) - 100) < 3


def test_the_order_of_the_names_does_not_matter():
    parts = {"b": NumberClips(17, 5), "a": NumberClips(9, 1)}
    turned = dict(reversed(parts.items()))
    assert first_batches(mixed(parts, {"b": 2, "a": 1}, "b"), 30) == first_batches(mixed(turned, {"a": 1, "b": 2}, "b"), 30)


def test_every_part_comes_whole_before_it_comes_again():
    counts = Counter()
    for _, numbers in first_batches(mixture(), 200):
        counts.update(numbers)
        for part in (range(17), range(17, 26)):
            seen = [counts[number] for number in part]
            assert max(seen) - min(seen) <= 1


def test_the_order_is_the_same_for_any_number_of_workers():
    assert first_batches(mixture(), 40) == first_batches(mixture(workers=2), 40)
    assert first_batches(growing(), 40) == first_batches(growing(workers=2), 40)


def test_processes_use_the_same_part_and_divide_its_order(monkeypatch):
    alone = first_batches(mixture(clips=4, images=2), 60)
    ranks = []
    for rank in (0, 1):
        as_process(monkeypatch, rank, 2)
        ranks.append(first_batches(mixture(clips=2, images=1), 60))
    assert [(one[0], one[1] + other[1]) for one, other in zip(*ranks, strict=True)] == alone
    assert [frames for frames, _ in ranks[0]] == [frames for frames, _ in ranks[1]]


def test_a_mixture_continues_with_another_number_of_processes(monkeypatch):
    loader = mixture(clips=4, images=2).train_dataloader()
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    state, rest = loader.state_dict(), [batch["index"].tolist() for batch in iterator]
    assert rest and all(count > 0 for count in state["consumed"])
    ranks = []
    for rank in (0, 1):
        as_process(monkeypatch, rank, 2)
        data = mixture(clips=2, images=1)
        data.load_state_dict(state)
        ranks.append([numbers for _, numbers in first_batches(data, len(rest))])
    assert [one + other for one, other in zip(*ranks, strict=True)] == rest


@pytest.mark.parametrize("make", [mixture, growing])
@pytest.mark.parametrize(("workers", "stops"), [(0, (1, 4, 7, 9, 14)), pytest.param(2, (1, 4, 7, 9, 14), marks=pytest.mark.slow)])
def test_a_resumed_run_sees_what_the_uninterrupted_run_sees(tmp_path, make, workers, stops):
    """An epoch has 5 + 4 batches of the mixture and 5 of the growing clips: stops within and at the end of epochs, and at growth."""
    whole = record(make(), tmp_path, 20)
    assert len(whole.seen) == 20 and len(set(whole.frames)) > 1
    for stop in stops:
        before = record(make(workers), tmp_path, stop)
        after = record(make(workers), tmp_path, 20, tmp_path / f"{stop}.ckpt")
        assert before.seen + after.seen == whole.seen and before.frames + after.frames == whole.frames


def test_a_resumed_run_with_workers_sees_what_the_uninterrupted_run_sees(tmp_path):
    before = record(mixture(2), tmp_path, 4)
    assert before.seen + record(mixture(2), tmp_path, 11, tmp_path / "4.ckpt").seen == record(mixture(), tmp_path, 11).seen


def test_growth_is_exact_to_the_step(tmp_path):
    seen = record(growing(), tmp_path, 12)
    assert seen.frames == [1] * 4 + [5] * 5 + [9] * 3
    assert [len(numbers) for numbers in seen.seen] == [5] * 4 + [3] * 8
    # Indices are unique over all sizes, so cached latents of one are never taken for another.
    assert {number // 17 for numbers in seen.seen[:4] for number in numbers} == {0}
    assert {number // 17 for numbers in seen.seen[9:] for number in numbers} == {2}


def test_mixtures_grow_by_their_parts():
    data = mixed({"clips": growing(), "images": NumberClips(9, 1, batch_size=2)}, {"clips": 1, "images": 1}, "clips")
    frames = [frames for frames, numbers in first_batches(data, 60) if numbers[0] < 51]
    assert frames == sorted(frames) and set(frames) == {1, 5, 9} and 20 < len(frames) < 40
    assert data.clip.frames == 9 and [clip.frames for clip in data.train_clips] == [1, 5, 9, 1]


def test_a_clip_gets_its_number_of_visits(tmp_path):
    def visits():
        return NumberClips(7, kind=Visits, batch_size=2)

    whole = record(visits(), tmp_path, 14)
    flat = [label for labels in whole.labels for label in labels]
    assert flat == [position // 7 for position in range(28)]
    record(visits(), tmp_path, 5)
    assert record(visits(), tmp_path, 14, tmp_path / "5.ckpt").labels == whole.labels[5:]


def test_validation_is_on_the_main_part():
    data = mixture()
    data.setup("fit")
    assert [batch["video"].shape[2] for batch in data.val_dataloader()] == [5, 5] and data.clip.frames == 5
    assert torch.equal(data.reference("train")[3]["video"], data.main.dataset("train")[3]["video"])


def test_too_few_clips_of_any_part_are_refused_by_name(monkeypatch):
    with pytest.raises(ValueError, match=r"9 training clips \(images\) do not fill one batch of 10"):
        mixture(images=10).train_dataloader()
    as_process(monkeypatch, 0, 5)
    with pytest.raises(ValueError, match=r"9 training clips \(images\) .* \(batch_size 2 x 5 processes\)"):
        mixture().train_dataloader()
    short = mixed({"a": NumberClips(3, milestones={2: StageOverride(batch_size=9)})}, {"a": 1}, "a")
    with pytest.raises(ValueError, match=r"3 training clips \(a, before step 2\) .* 45"):
        short.train_dataloader()


def test_invalid_mixtures_are_refused():
    part = NumberClips()
    for parts, ratio in (({"a": part}, {"b": 1}), ({"a": part}, {"a": 1, "b": 1})):
        with pytest.raises(ValueError, match="ratio must have a weight for every part: parts are a, weights are given for"):
            mixed(parts, ratio, "a")
    for parts in ({}, {"a": part}):
        with pytest.raises(ValueError, match="main must be the name of a part, one of .*, got 'b'"):
            Mixture(part.clip, parts=parts, ratio=dict.fromkeys(parts, 1), main="b")
    with pytest.raises(ValueError, match=r"clip must be that of the main part a, Clip\(frames=1.*; got Clip\(frames=5"):
        Mixture(Clip(5, 1, 1), parts={"a": part}, ratio={"a": 1}, main="a")
    with pytest.raises(ValueError, match="ratio: the weight of b must be positive, got 0"):
        mixed({"a": part, "b": part}, {"a": 1, "b": 0}, "a")
    other = NumberClips()
    other.class_names = ["left", "right"]
    with pytest.raises(ValueError, match=r"b has the classes left, right \(2\), another part has 0 up, 0 down, 0 left, ... \(40\)"):
        mixed({"a": MovingDigits(Clip(1, 1, 1)), "b": other}, {"a": 1, "b": 1}, "a").setup("fit")


def test_milestones_are_checked():
    with pytest.raises(ValueError, match="milestones: steps are at least 1, got 0"):
        NumberClips(milestones={0: StageOverride(frames=1)})
    with pytest.raises(ValueError, match="clip.frames must be positive, got -1"):
        NumberClips(milestones={3: StageOverride(frames=-1)})
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        NumberClips(milestones={3: StageOverride(batch_size=0)})


def test_the_position_in_other_data_is_refused():
    state = mixture().train_dataloader().state_dict()
    data = NumberClips()
    data.load_state_dict(state)
    with pytest.raises(ValueError, match="clips of 2 sizes or sources, and now there are 1"):
        data.train_dataloader()


def test_a_position_far_away_is_found_at_once():
    """The order is computed from the position, not by iterating up to it."""
    sources = [DataSource(Numbers(range(11)), 4), DataSource(Numbers(range(5)), 2)]
    loader = ResumableLoader(sources, lambda items: [item["index"] for item in items])
    loader.load_state_dict({"steps": 10**12, "consumed": [11 * 10**12, 5 * 10**12]})
    assert len(list(loader)) == 4 and loader.state_dict()["steps"] == 10**12 + 4


def test_captions_and_classes_are_those_of_all_parts():
    clips = {"video": MovingDigits(Clip(5, 16, 16)), "images": MovingDigits(Clip(1, 16, 16))}
    data = mixed(clips, {"video": 0.7, "images": 0.3}, "video")
    assert data.class_names == clips["video"].class_names and data.captions == sorted(clips["video"].captions)
    assert torch.equal(data.dataset("val")[0]["video"], clips["video"].dataset("val")[0]["video"])
