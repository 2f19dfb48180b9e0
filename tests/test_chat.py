"""Language models reply to conversations, and stop at every end token."""

from pathlib import Path

import pytest
from small_text_models import model_that_writes, text_model

import functional_models as fm
from functional_models.hugging_face.tokenizers import read_tokenizer

FOLDERS = Path(__file__).parent / "golden_tokenizers"
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "a"},
]
REPLY = "The dog, at 1,234 km."


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(FOLDERS / "llama3")


@pytest.fixture(scope="module")
def lm(tokenizer):
    """A model that replies to MESSAGES, ends its turn, and goes on."""
    prompt, reply, end, rest = tokenizer.encode(
        [tokenizer.format_chat(MESSAGES), REPLY, "<|eot_id|>", " and more"]
    )
    tokens = [*prompt, *reply, *end, *rest]
    return model_that_writes(tokens, tokenizer, max_sequence_length=len(tokens) + 9)


def test_a_reply_ends_at_any_end_token(lm, tokenizer):
    assert len(tokenizer.end_ids) == 2
    assert tokenizer.end_id == tokenizer.end_ids[0]
    assert lm.chat(MESSAGES, "greedy") == REPLY


@pytest.mark.slow
def test_a_reply_has_scores_and_can_be_streamed_or_searched(lm, tokenizer):
    found = lm.chat(MESSAGES, "greedy", scores=True)
    assert found.tokens[-1] == tokenizer.encode(["<|eot_id|>"])[0][0] != tokenizer.end_id
    assert "".join(lm.chat(MESSAGES, "greedy", stream=True)) == REPLY
    assert lm.chat(MESSAGES, "beam", num_beams=2, max_new_tokens=len(found.tokens)) == REPLY


def test_a_reply_is_the_continuation_of_the_formatted_text(lm, tokenizer):
    text = tokenizer.format_chat(MESSAGES)
    after_start = text.removeprefix("<|begin_of_text|>")
    assert lm.generate(after_start, "greedy") == lm.chat(MESSAGES, "greedy") == REPLY
    assert lm.generate(after_start, "greedy", echo=True) == after_start + REPLY
    longer = lm.generate(after_start, "greedy", stop_tokens="<|start_header_id|>")
    assert longer == REPLY


@pytest.mark.slow
def test_a_text_is_a_message_of_the_user(lm):
    assert lm.chat("Hi", "greedy") == lm.chat(MESSAGES[:1], "greedy")


@pytest.mark.slow
def test_a_saved_model_chats(lm, tmp_path):
    lm.save(tmp_path / "lm")
    assert fm.load(tmp_path / "lm").chat(MESSAGES, "greedy") == REPLY


def test_errors_say_what_is_wrong(lm):
    with pytest.raises(ValueError, match="a byte tokenizer has no chat template"):
        text_model("decoder_only").chat("Hi")
    with pytest.raises(ValueError, match="the role judge is not allowed"):
        lm.chat([{"role": "judge", "content": "x"}])
    with pytest.raises(ValueError, match="and max_sequence_length is"):
        lm.chat("a" * 999)
    with pytest.raises(TypeError, match="temprature"):
        lm.chat("Hi", temprature=1.0)
