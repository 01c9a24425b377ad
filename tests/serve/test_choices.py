"""One choice of a request: what comes at once is told at once, and what came before a failure is not lost."""

import asyncio

import pytest

from mtp.decode import Request, Sampling, StepOutput, Token
from mtp.tokenizer import Tokenizer
from serve.choices import Choice
from serve.errors import APIError
from serve.text_stream import TextStream

TOKENIZER = Tokenizer.train(["hello world"] * 3, vocab_size=300)


def step(text="", **more):
    return StepOutput(request_id=0, tokens=[Token(number, 0) for number in TOKENIZER.encode(text)], **more)


def told(*batches):
    """The texts of a choice whose outputs come in these batches, into a list that outlives a failure."""

    async def outputs():
        for batch in batches:
            yield list(batch)

    texts = []
    choice = Choice(0, [1], Request(prompt=[1], sampling=Sampling()), TextStream(TOKENIZER, []), outputs=outputs())

    async def read():
        async for delta in choice.deltas():
            texts.append(delta.text)

    return texts, lambda: asyncio.run(read())


def test_text_that_came_with_a_failure_is_told_before_it():
    texts, read = told([step("hello"), step(error="the logits are not finite", finish_reason="error")])
    with pytest.raises(APIError, match="the logits are not finite"):
        read()
    assert texts == ["hello"]


def test_a_failure_by_itself_is_told_before_anything_else():
    texts, read = told([step(error="the logits are not finite", finish_reason="error")])
    with pytest.raises(APIError, match="the logits are not finite"):
        read()
    assert texts == []
