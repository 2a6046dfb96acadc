"""Half a tokenizer decodes as the whole one does, and each tokenizer is known by its weights."""

import pytest
import torch

from modules.tokenizer import Detokenizer, VideoTokenizer


def test_half_a_tokenizer_decodes_like_the_whole(tokenizer: VideoTokenizer) -> None:
    half = Detokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4)
    half.load_state_dict({name: value for name, value in tokenizer.state_dict().items() if name.startswith("decoder.")})
    latent = torch.randn(2, 8, 3, 4, 4)
    assert torch.equal(half.decode(latent), tokenizer.decode(latent))
    assert half.fingerprint() == {"decoder": tokenizer.fingerprint()["decoder"]} != {}
    for encode in (half.encode, half.encode_chunk, half.encode_for_tokens):
        with pytest.raises(ValueError, match="video cannot be encoded without the tokenizer's encoder"):
            encode(torch.zeros(1, 3, 1, 16, 16))


@pytest.mark.parametrize(("name", "half", "other"), [("encoder.conv_in", "encoder", "decoder"), ("decoder.conv_out", "decoder", "encoder")])
def test_a_tokenizer_is_known_by_each_of_its_numbers(tokenizer: VideoTokenizer, name: str, half: str, other: str) -> None:
    before = tokenizer.fingerprint()
    tokenizer.state_dict()[f"{name}.conv.weight"].view(-1)[0] += 1e-3
    after = tokenizer.fingerprint()
    assert before[half] != after[half] and before[other] == after[other] and len(before[half]) == 64
    regrouped = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4, groups=12)
    regrouped.load_state_dict(tokenizer.state_dict())
    assert set(regrouped.fingerprint().values()).isdisjoint(after.values())
