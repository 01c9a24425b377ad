"""Greedy speculation equals standard decoding at scale: 512 prompts for every kind of modules, in batches of 1 to 32,
while prefixes are hit, memory runs out, and batchmates are cancelled."""

import random

import pytest

from mtp.decode import Engine, EngineOptions, Request, Sampling, Speculation, generate
from tests.decode.tiny import KINDS, random_prompts, tiny_model

SHARES = {1: 12, 3: 36, 8: 144, 32: 320}
"""Prompts by batch size."""


def prompts_of(seed):
    """Half of them begin like another one, so that prefixes are found."""
    prompts = random_prompts(sum(SHARES.values()), seed=seed, longest=24)
    stems = random_prompts(8, seed=seed + 1, longest=40)
    for place in range(0, len(prompts), 2):
        prompts[place] = stems[place % 8] + prompts[place]
    random.Random(seed).shuffle(prompts)
    return prompts


def decode(model, prompts, sampling, batch, chance):
    """Tokens of every prompt; a quarter as many bystanders come, some to be cancelled after a few steps."""
    width = max(20, 9 * batch)
    options = EngineOptions(max_batch_size=batch, block_size=4, cache_blocks=width, max_model_len=80)
    engine = Engine(model, options=options)
    wanted, bystanders, outputs, waiting = {}, [], {}, list(enumerate(prompts))
    while waiting or engine.has_work:
        for _ in range(chance.randint(0, batch)):
            if waiting:
                place, prompt = waiting.pop()
                drafts = chance.choice([None, None, 1, 0])
                wish = Speculation(decoder="mtp", num_draft_tokens=drafts)
                wanted[engine.add(Request(prompt=prompt, sampling=sampling, speculation=wish))] = place
                if chance.random() < 0.25:
                    bystanders.append(engine.add(Request(prompt=prompt[::-1], sampling=Sampling(max_tokens=30))))
        if bystanders and chance.random() < 0.3:
            engine.cancel(bystanders.pop(chance.randrange(len(bystanders))))
        for output in engine.step():
            assert output.error is None
            outputs.setdefault(output.request_id, []).extend(token.id for token in output.tokens)
    assert engine.cache_use == 0
    return {place: outputs[number] for number, place in wanted.items()}, engine


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_512_prompts_in_batches_of_1_to_32_with_prefix_hits_preemption_and_cancellations(kind):
    model, prompts, chance = tiny_model(kind), prompts_of(61), random.Random(62)
    sampling = Sampling(max_tokens=12)
    standard = Speculation(decoder="standard")
    plain = EngineOptions(max_batch_size=32, prefix_caching=False)
    expected = [one.tokens for one in generate(model, prompts, sampling, standard, options=plain)]
    start, preemptions, hits = 0, 0, 0
    for batch, count in SHARES.items():
        found, engine = decode(model, prompts[start : start + count], sampling, batch, chance)
        assert [found[place] for place in range(count)] == expected[start : start + count], f"batch {batch}"
        assert sum(engine.stats.accepted_per_position) > 0
        start, preemptions, hits = (
            start + count,
            preemptions + engine.scheduler.preemptions,
            hits + engine.scheduler.prefix_hits,
        )
    assert preemptions > 0
    assert hits > 0
