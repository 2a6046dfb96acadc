"""Caches of latents: exact round trip, detected damage, and a size that is known before writing."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.geometry import Clip
from modules.storage.latents import CachedClip, CacheHeader, LatentCache, header, header_path, open_header, shard_path, write_shard

SETTLED = CacheHeader(
    tokenizer={"encoder": "a" * 64, "decoder": "b" * 64},
    source="tokenizer.ckpt",
    preprocessing={"source": "Anything", "seed": 0},
    clip=Clip(5, 16, 16),
    latent=(8, 2, 4, 4),
    temporal_factor=4,
    dtype="float32",
    splits={"train": 7, "val": 2},
    same={"test": "val"},
    class_names=["one", "two"],
    captions=["a cat", "Ein Bär – 熊"],
    clips_per_shard=3,
)


def clips_of(settled: CacheHeader) -> dict[str, list[CachedClip]]:
    generator = torch.Generator().manual_seed(0)

    def clip(number: int) -> CachedClip:
        latent = torch.randn(settled.latent, generator=generator)
        return CachedClip(latent, number % 3 - 1, settled.captions[number % 2] if number % 3 else "", 100 + number)

    return {split: [clip(number) for number in range(count)] for split, count in settled.splits.items()}


def write(folder: Path, settled: CacheHeader = SETTLED) -> dict[str, list[CachedClip]]:
    clips = clips_of(settled)
    for shard in settled.shards():
        path = shard_path(folder, shard.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shard(path, settled, shard, clips[shard.split][shard.first :][: shard.count])
    header_path(folder).write_text(settled.to_json())
    return clips


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_clips_come_back_bit_for_bit_in_any_order(tmp_path: Path, dtype: header.StorageDtype) -> None:
    settled = replace(SETTLED, dtype=dtype)
    written = write(tmp_path, settled)
    written["test"] = written["val"]
    for cache in (LatentCache(tmp_path), pickle.loads(pickle.dumps(LatentCache(tmp_path)))):
        assert cache.header == settled and [cache.length(split) for split in ("train", "val", "test", "none")] == [7, 2, 2, 0]
        for split, number in [("train", 6), ("val", 1), ("train", 0), ("test", 1), ("train", 3), ("train", 6), ("val", 0)]:
            found, wanted = cache.clip(split, number), written[split][number]
            assert torch.equal(found.latent, wanted.latent.to(getattr(torch, dtype))) and found[1:] == wanted[1:]


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 5 and all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def all_clips(folder: Path) -> list[CachedClip]:
    cache = LatentCache(folder)
    return [cache.clip(split, number) for split, count in cache.header.splits.items() for number in range(count)]


def test_no_changed_byte_of_a_shard_goes_unnoticed(tmp_path: Path) -> None:
    """Every part of the file, and many places in it; spaces that fill up the header have no meaning."""
    write(tmp_path)
    shard = shard_path(tmp_path, "train/000001")
    whole = shard.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    blank = range(len(whole[:header].rstrip()), header)
    for place in [*(place for place in range(0, len(whole), 7) if place not in blank), len(whole) - 1]:
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"train/000001\.safetensors .*; remove it and rerun the command that made the cache"):
            all_clips(tmp_path)
    for content in (whole[:-1], b"", b"no latents"):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=r"train/000001\.safetensors is damaged or not a file of latents"):
            all_clips(tmp_path)
    shard.write_bytes(whole)
    assert len(all_clips(tmp_path)) == 9


def test_shards_that_are_missing_misplaced_or_of_another_cache_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", replace(SETTLED, preprocessing={"seed": 1}))
    shard, whole = shard_path(tmp_path / "a", "train/000001"), shard_path(tmp_path / "a", "train/000001").read_bytes()
    for other in (shard_path(tmp_path / "b", "train/000001"), shard_path(tmp_path / "a", "train/000000")):
        shard.write_bytes(other.read_bytes())
        with pytest.raises(ValueError, match=r"train/000001\.safetensors belongs to another cache"):
            all_clips(tmp_path / "a")
    shard.unlink()
    with pytest.raises(ValueError, match=r"a is incomplete: 1 of 4 shards are missing, such as train/000001"):
        LatentCache(tmp_path / "a")
    shard.write_bytes(whole)
    header_path(tmp_path / "a").write_text(SETTLED.to_json().replace("a cat", "a rat"))
    with pytest.raises(ValueError, match=r"train/000000\.safetensors belongs to another cache, or cache\.json beside it was changed"):
        all_clips(tmp_path / "a")


@pytest.mark.parametrize("text", ["", "{}", "[1]", SETTLED.to_json()[:-9], SETTLED.to_json().replace("latents 1", "latents 2")])
def test_a_plan_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    header_path(tmp_path).write_text(text)
    with pytest.raises(ValueError, match=r"cache\.json is damaged or not the header of a cache of latents"):
        LatentCache(tmp_path)
    with pytest.raises(ValueError, match=r"there is no cache of latents in .*gone, which has no cache\.json"):
        LatentCache(tmp_path / "gone")


OTHERS = {
    r"has latents of tokenizer decoder bbbbbbbbbbbb, encoder aaaaaaaaaaaa \(tokenizer\.ckpt\), not of decoder bbbbbbbbbbbb, encoder "
    r"cccccccccccc \(other\.ckpt\)": {"tokenizer": {"encoder": "c" * 64, "decoder": "b" * 64}, "source": "other.ckpt"},
    r"was begun with clip\.height 16, not 32": {"clip": Clip(5, 32, 16)},
    r"was begun with clip\.fps 8\.0, not 4\.0": {"clip": Clip(5, 16, 16, 4.0)},
    r"was begun with preprocessing\.seed 0, not 1": {"preprocessing": {"source": "Anything", "seed": 1}},
    r"was begun with preprocessing\.source Anything, not None": {"preprocessing": {"seed": 0}},
    r"was begun with numbers float32, not float16": {"dtype": "float16"},
    r"was begun with splits\.train 7, not 8": {"splits": {"train": 8, "val": 2}},
    r"was begun with captions .*, not \[\'a cat\'\]": {"captions": ["a cat"]},
    r"was begun with class_names \[\'one\', \'two\'\], not \[\'two\', \'one\'\]": {"class_names": ["two", "one"]},
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_cache_is_not_gone_on_with_and_what_differs_is_named_for_both(tmp_path: Path, message: str) -> None:
    other = replace(SETTLED, **OTHERS[message])
    assert open_header(tmp_path, other) == (other, False)
    header_path(tmp_path).write_text(SETTLED.to_json())
    assert open_header(tmp_path, replace(SETTLED, source="moved.ckpt", clips_per_shard=9)) == (SETTLED, True)
    with pytest.raises(ValueError, match=f"{message}: use another folder, or remove that one"):
        open_header(tmp_path, other)


@pytest.mark.parametrize(
    "change", [lambda clips: clips[:-1], lambda clips: [clips[0]._replace(latent=torch.zeros(8, 2, 4, 3)), *clips[1:]]]
)
def test_a_shard_is_what_was_planned(tmp_path: Path, change: Callable) -> None:
    shard = next(SETTLED.shards())
    with pytest.raises(ValueError, match=r"shard train/000000 needs 3 latents of \(8, 2, 4, 4\), got"):
        write_shard(tmp_path / "x", SETTLED, shard, change(clips_of(SETTLED)["train"][:3]))


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    shard, clips = next(SETTLED.shards()), clips_of(SETTLED)["train"][:3]
    clips[1].latent[0, 0, 0, 0] = 1e5
    write_shard(tmp_path / "x", SETTLED, shard, clips)
    with pytest.raises(ValueError, match="latents that are not finite as float16"):
        write_shard(tmp_path / "y", replace(SETTLED, dtype="float16"), shard, clips)


@pytest.mark.parametrize("latent", [(8, 2, 4, 4), (48, 5, 8, 8)])
def test_the_size_is_known_beforehand(tmp_path: Path, latent: tuple[int, int, int, int]) -> None:
    captions = [f"a dog of {number} runs along the beach"[: 20 + number % 9] for number in range(90)]
    settled = replace(SETTLED, latent=latent, splits={"train": 80, "val": 20}, captions=captions, clips_per_shard=40)
    write(tmp_path, settled)
    real = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert settled.bytes_of(list(settled.shards())) == pytest.approx(real, rel=0.02)


def test_shards_are_as_large_as_said() -> None:
    assert header.clips_of_shard((8, 2, 4, 4), "float32") == 1024
    long = (48, 17, 24, 42)
    assert header.clips_of_shard(long, "float32") == header.SHARD_BYTES // (48 * 17 * 24 * 42 * 4) == 20
    assert header.clips_of_shard(long, "float16") == 40 and header.clips_of_shard((48, 17, 2400, 4200), "float32") == 1
    shards = replace(SETTLED, splits={"train": 70}, clips_per_shard=20).shards()
    assert [(shard.first, shard.count) for shard in shards] == [(0, 20), (20, 20), (40, 20), (60, 10)]
