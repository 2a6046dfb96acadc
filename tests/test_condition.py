"""Names travel with the weights; what is unknown is refused or said."""

import pytest
import torch

from modules.transformer import ClassCondition, TextCondition


def test_a_class_of_two_attributes_gets_a_token_for_each() -> None:
    condition = ClassCondition(8, (3, 2))
    ids = condition.of_batch(torch.tensor([0, 1, 5, -1]), [])
    assert ids[:3].tolist() == [[0, 3], [0, 4], [2, 4]]
    prompt = condition(ids)
    torch.testing.assert_close(prompt.tokens[3], condition.null)
    torch.testing.assert_close(prompt.pooled, prompt.tokens.mean(1))


def test_class_names_travel_with_the_weights_and_must_agree() -> None:
    condition, other = ClassCondition(8, (2,)), ClassCondition(8, (2,))
    condition.learn_names(["cat", "dog"], [])
    other.load_state_dict(condition.state_dict())
    assert other.of_texts(["dog"]).tolist() == [[1]]
    other.learn_names(["cat", "dog"], [])
    with pytest.raises(ValueError, match="'dog' where the data has 'fox'"):
        other.learn_names(["cat", "fox"], [])
    with pytest.raises(ValueError, match="3 classes"):
        other.learn_names(["a", "b", "c"], [])
    with pytest.raises(ValueError, match="unknown class 'dgo'.*dog"):
        other.of_texts(["dgo"])
    with pytest.raises(ValueError, match="label 2 does not exist"):
        other.of_batch(torch.tensor([2]), [])


def test_words_are_learned_by_frequency_cut_with_a_warning_and_travel_too() -> None:
    condition, other = TextCondition(8, vocabulary=3, length=3), TextCondition(8, vocabulary=3, length=3)
    condition.learn_names([], ["a red cat", "a red dog", "A dog!"])
    assert condition.names == ["a", "dog", "red"]
    other.load_state_dict(condition.state_dict())
    assert other.of_batch(torch.zeros(2), ["red dog", ""]).tolist() == [[4, 3, 0], [-1, 0, 0]]
    with pytest.warns(UserWarning, match="not trained with: cat"):
        assert other.of_texts(["a cat"]).tolist() == [[2, 1, 0]]
    with pytest.warns(UserWarning, match="4 words was truncated to 3"):
        other.of_batch(torch.zeros(1), ["a a a a"])
    with pytest.raises(ValueError, match="no captions"):
        TextCondition(8).learn_names([], [])


def test_the_pooled_vector_of_a_text_is_the_mean_of_its_own_words() -> None:
    condition = TextCondition(8, length=64)
    condition.learn_names([], ["red dog"])
    ids = condition.of_batch(torch.zeros(2), ["red dog", ""])
    prompt = condition(ids)
    torch.testing.assert_close(prompt.pooled[0], prompt.tokens[0, :2].mean(dim=0))
    torch.testing.assert_close(prompt.pooled[1], condition.null.mean(dim=0))
    torch.testing.assert_close(condition(torch.full((1, 64), -1)).pooled[0], condition.null.mean(dim=0))


def test_no_condition_is_the_same_for_every_clip() -> None:
    condition = TextCondition(8, length=3)
    condition.learn_names([], ["a b"])
    prompt = condition(torch.cat([condition.of_texts([""]), condition.nothing(1, torch.device("cpu"))]))
    torch.testing.assert_close(prompt.tokens[0], prompt.tokens[1])
