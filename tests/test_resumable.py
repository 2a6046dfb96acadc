"""Loaders: an order that depends on the seed and the consumed clips only, and exact resume."""

import pytest
import torch
from counted_clips import NumberClips, Numbers, Recorder, as_process, record
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.loaders.resumable import HeldOutLoader, ResumableLoader
from datamodules.loaders.sources import DataSource


def clips(loader):
    return [item for batch in loader for item in batch]


def numbers(items):
    return [item["index"] for item in items]


def train_loader(length=17, batch_size=3, seed=5, **options):
    return ResumableLoader([DataSource(Numbers(range(length)), batch_size, seed)], numbers, **options)


def fit(folder, steps=-1, *, workers=0, ckpt_path=None, asks_for_steps=False, **options):
    return record(NumberClips(workers=workers), folder, steps, ckpt_path, Recorder(asks_for_steps), **options).seen


def test_every_clip_comes_once_before_any_comes_again():
    loader = train_loader(length=12)
    first, second = clips(loader), clips(loader)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_no_batch_is_partial_and_no_clip_is_lost():
    loader = train_loader(length=17)
    epochs = [list(loader) for _ in range(4)]
    assert all(len(epoch) == len(loader) == 5 and all(len(batch) == 3 for batch in epoch) for epoch in epochs)
    row = [clip for epoch in epochs for batch in epoch for clip in batch]
    assert sorted(row[:17]) == sorted(row[17:34]) == sorted(row[34:51]) == list(range(17))


def test_the_order_follows_the_seed():
    assert clips(train_loader(seed=1)) == clips(train_loader(seed=1)) != clips(train_loader(seed=2))


def test_the_order_is_the_same_for_any_number_of_workers():
    assert [clips(loader) for loader in 2 * [train_loader()]] == [clips(loader) for loader in 2 * [train_loader(workers=2)]]


def test_processes_divide_the_order(monkeypatch):
    alone = list(train_loader(batch_size=4))
    as_process(monkeypatch, 0, 2)
    first = list(train_loader(batch_size=2))
    as_process(monkeypatch, 1, 2)
    second = list(train_loader(batch_size=2))
    assert [left + right for left, right in zip(first, second, strict=True)] == alone


def test_only_yielded_batches_count_as_consumed():
    loader = train_loader(workers=2)
    whole = clips(train_loader())
    iterator = iter(loader)
    seen = next(iterator) + next(iterator)
    later = train_loader()
    later.load_state_dict(loader.state_dict())
    assert (seen + clips(later))[: len(whole)] == whole


def test_a_state_continues_with_another_number_of_processes(monkeypatch):
    loader = train_loader(batch_size=4)
    iterator = iter(loader)
    next(iterator)
    state, rest = loader.state_dict(), [clip for batch in iterator for clip in batch]
    ranks = []
    for rank in (0, 1):
        as_process(monkeypatch, rank, 2)
        loader = train_loader(batch_size=2)
        loader.load_state_dict(state)
        ranks.append(list(loader))
    assert [clip for pair in zip(*ranks, strict=True) for batch in pair for clip in batch][: len(rest)] == rest


def test_a_pass_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    clips(train_loader())
    assert torch.equal(torch.rand(3), expected)


def test_a_resumed_run_sees_what_the_uninterrupted_run_sees(tmp_path):
    """An epoch has 5 batches: stops within the first, at its end, within the second and at its end."""
    whole = fit(tmp_path, 13)
    assert len(whole) == 13
    for stop, workers in [(4, 0), (4, 2), (5, 0), (7, 0), (10, 0)]:
        before = fit(tmp_path, stop, workers=workers)
        after = fit(tmp_path, 13, workers=workers, ckpt_path=tmp_path / f"{stop}.ckpt")
        assert before + after == whole


def test_a_run_of_epochs_resumes_exactly(tmp_path):
    whole = fit(tmp_path, max_epochs=3)
    assert len(whole) == 15
    for epochs, workers in [(1, 0), (2, 2)]:
        before = fit(tmp_path, max_epochs=epochs, workers=workers)
        after = fit(tmp_path, max_epochs=3, workers=workers, ckpt_path=tmp_path / "-1.ckpt")
        assert before + after == whole


def test_a_resumed_run_may_read_its_number_of_steps(tmp_path):
    whole = fit(tmp_path, 9, asks_for_steps=True)
    before = fit(tmp_path, 7, asks_for_steps=True)
    assert before + fit(tmp_path, 9, asks_for_steps=True, ckpt_path=tmp_path / "7.ckpt") == whole


def test_a_checkpoint_in_the_middle_of_a_run_resumes_exactly(tmp_path):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(tmp_path, 12, callbacks=[saver], val_check_interval=2)
    for step in (3, 5, 6):
        assert whole[step:] == fit(tmp_path, 12, ckpt_path=tmp_path / f"step={step}.ckpt", val_check_interval=2)


def test_shortened_epochs_continue_through_the_clips(tmp_path):
    whole = fit(tmp_path, 13)
    for limit, stop in [(2, 7), (4, 8), (4, 9)]:
        before = fit(tmp_path, stop, limit_train_batches=limit)
        after = fit(tmp_path, 13, limit_train_batches=limit, ckpt_path=tmp_path / f"{stop}.ckpt")
        assert whole == before + after == fit(tmp_path, 13, limit_train_batches=limit)


def test_too_few_clips_are_refused_with_both_numbers(monkeypatch):
    with pytest.raises(ValueError, match=r"2 training clips .* 3 "):
        train_loader(length=2)
    as_process(monkeypatch, 0, 8)
    with pytest.raises(ValueError, match=r"17 training clips .* 24 .*batch_size 3 x 8 processes"):
        NumberClips().train_dataloader()


def test_held_out_clips_come_once_and_in_equally_many_batches(monkeypatch):
    for length in (16, 17, 18, 24):
        ranks = []
        for rank in range(2):
            as_process(monkeypatch, rank, 2)
            loader = HeldOutLoader(range(length), list, batch_size=4)
            ranks.append(list(loader))
            assert [clip for batch in ranks[-1] for clip in batch] == list(range(rank, length, 2))
            assert len(ranks[-1]) == len(loader)
        assert len(ranks[0]) == len(ranks[1])


def test_held_out_clips_that_cannot_be_shared_are_refused(monkeypatch):
    as_process(monkeypatch, 1, 2)
    with pytest.raises(ValueError, match="3 held-out clips .* 2 processes with batch_size 1"):
        HeldOutLoader(range(3), list, batch_size=1)


def test_held_out_clips_come_again_in_every_pass():
    loader = HeldOutLoader(range(7), list, batch_size=3, workers=2)
    assert list(loader) == list(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_state_of_unknown_format_is_refused():
    for state in ({"steps": 3, "consumed": 9}, {"consumed": [9]}, {"steps": -1, "consumed": [9]}, {"steps": 3, "consumed": [None]}, {}):
        with pytest.raises(ValueError, match="has an unknown format: start a new run from its weights with --init_from"):
            train_loader().load_state_dict(state)
