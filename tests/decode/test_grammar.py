import json
import re

import pytest

from mtp.decode import Engine, EngineOptions, GrammarCompiler, Request, Sampling, Speculation
from mtp.errors import UsageError
from tests.decode.letters import letters
from tests.decode.tiny import VOCAB, random_prompts, tiny_model

EOS = letters().eos_id
COMPILER = GrammarCompiler(letters(), VOCAB)
SCHEMA = {
    "type": "object",
    "properties": {"ab": {"type": "integer"}, "c": {"enum": ["abc", "d"]}},
    "required": ["ab", "c"],
    "additionalProperties": False,
}
CONSTRAINTS = [
    {"json_schema": SCHEMA},
    {"regex": "(abc|a[bd]{2,9})+12"},
    {"grammar": 'root ::= "[" item ("," item)* "]"\nitem ::= [0-9]+ | "abc"'},
    {"grammar": 'start: "<" ("ab" | "cd" | start)+ ">"'},
]


def engine_of(model, **options):
    return Engine(model, eos_ids=(EOS,), options=EngineOptions(**options), grammars=COMPILER)


def run(engine, requests):
    """Tokens, finish reason and error of every request."""
    numbers = [engine.add(request) for request in requests]
    tokens, ends = {number: [] for number in numbers}, {}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += [token.id for token in output.tokens]
            if output.finish_reason:
                ends[output.request_id] = (output.finish_reason, output.error)
    return [(tokens[number], *ends[number]) for number in numbers]


def text_of(tokens):
    return letters().decode([token for token in tokens if token != EOS])


def satisfies(text, constraint):
    if "json_schema" in constraint:
        value = json.loads(text)
        return set(value) == {"ab", "c"} and isinstance(value["ab"], int) and value["c"] in ("abc", "d")
    if "regex" in constraint:
        return re.fullmatch(constraint["regex"], text) is not None
    expression = r"\[(\d+|abc)(,(\d+|abc))*\]" if "root" in constraint["grammar"] else r"[<>abcd]+"
    return re.fullmatch(expression, text) is not None and text.count("<") == text.count(">")


def mixed(constraints, speculation, **wishes):
    """Requests of all constraints and free ones, side by side."""
    prompts = random_prompts(10, seed=31, longest=20)
    every = [*constraints, {}]
    return [
        Request(
            prompt=prompt, sampling=Sampling(max_tokens=40, **(every[i % len(every)] | wishes)), speculation=speculation
        )
        for i, prompt in enumerate(prompts)
    ]


SOME_KINDS = ["sequential", "parallel_2", "independent", "none"]
PENALTIES = {"logit_bias": {EOS: 3.0}, "repetition_penalty": 1.3, "frequency_penalty": 0.4}


@pytest.mark.parametrize(("kind", "wishes"), [*((kind, {}) for kind in SOME_KINDS), ("sequential", PENALTIES)])
def test_constrained_greedy_speculation_equals_standard_decoding_beside_free_batchmates(kind, wishes):
    model = tiny_model(kind)
    expected = run(engine_of(model, max_batch_size=1), mixed(CONSTRAINTS, Speculation(decoder="standard"), **wishes))
    decoders = ["prompt_lookup"] if kind == "none" else ["mtp", "prompt_lookup"]
    for decoder in decoders:
        small = {"block_size": 4, "cache_blocks": 24, "max_model_len": 60}
        for options in ({"max_batch_size": 10}, {"max_batch_size": 5, **small}):
            engine = engine_of(model, **options)
            assert run(engine, mixed(CONSTRAINTS, Speculation(decoder=decoder), **wishes)) == expected


@pytest.mark.parametrize("decoder", ["standard", "mtp", "prompt_lookup", "parallel"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_decoder_keeps_every_constraint(decoder, temperature):
    model = tiny_model("sequential")
    requests = [
        Request(
            prompt=[5, 6, 7],
            sampling=Sampling(max_tokens=60, temperature=temperature, seed=seed, **constraint),
            speculation=Speculation(decoder=decoder),
        )
        for constraint in CONSTRAINTS
        for seed in range(3)
    ]
    whole = 0
    for request, (tokens, reason, error) in zip(requests, run(engine_of(model), requests), strict=True):
        assert error is None
        constraint = CONSTRAINTS[requests.index(request) // 3]
        if reason == "stop":
            whole += 1
            assert satisfies(text_of(tokens), constraint), (text_of(tokens), constraint)
        else:
            assert reason == "length"
    assert whole >= 3


def test_drafts_are_constrained_too_so_that_they_can_be_accepted():
    requests = [Request(prompt=[5, 6], sampling=Sampling(max_tokens=40, regex="abcabcabcabc(abc)+"))]
    engine = engine_of(tiny_model("sequential"))
    run(engine, requests)
    assert engine.stats.acceptance_per_position[0] > 0.7  # next to none, were drafts not constrained


BAD = [
    ({"json_schema": "{"}, "is not a JSON schema"),
    ({"json_schema": {"type": "strin"}}, "strin"),
    ({"json_schema": {"type": "string", "minLength": 5, "maxLength": 3}}, "minLength"),
    ({"json_schema": {"$ref": "http://a.b/c"}}, "cannot be used"),
    ({"json_schema": {"type": "x" * 10_000}}, "cannot be used"),
    ({"regex": "a("}, "unclosed group"),
    ({"regex": r"[^\s\S]"}, "cannot be satisfied"),
    ({"regex": "é"}, "cannot be satisfied"),
    ({"grammar": 'root ::= "a" ("b"'}, "EBNF"),
    ({"grammar": 'start: "a" b'}, "unknown name"),
    ({"grammar": 'start: start "a"'}, "cannot be satisfied"),
    ({"grammar": 'start: "a"', "regex": "a"}, "choose one"),
]


@pytest.mark.parametrize(("constraint", "words"), BAD)
def test_a_constraint_that_is_wrong_or_cannot_be_satisfied_is_refused_alone(constraint, words):
    model, engine = tiny_model("sequential"), engine_of(tiny_model("sequential"))
    good = Request(prompt=[3, 4, 5], sampling=Sampling(max_tokens=8))
    expected = run(engine_of(model), [good])
    number = engine.add(good)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        engine.add(Request(prompt=[1], sampling=Sampling(**constraint)))
    assert "\n" not in str(caught.value)
    found = []
    while engine.has_work:
        found += [token.id for output in engine.step() for token in output.tokens if output.request_id == number]
    assert found == expected[0][0]


def test_a_constraint_that_ends_before_min_tokens_fails_that_request_alone():
    model = tiny_model("sequential")
    free = Request(prompt=[3, 4, 5], sampling=Sampling(max_tokens=20))
    short = Request(prompt=[6, 7], sampling=Sampling(max_tokens=20, min_tokens=9, regex="abc"))
    optional = Request(prompt=[6, 7], sampling=Sampling(max_tokens=20, min_tokens=9, regex="abc([^a-z]x)?"))
    (tokens, reason, error), (_, reason_two, error_two), other = run(engine_of(model), [short, optional, free])
    assert (reason, reason_two) == ("error", "error")
    assert "min_tokens is 9" in error and "dead end" in error_two
    assert text_of(tokens) == "abc"
    assert other == run(engine_of(model), [free])[0]


def test_an_engine_without_a_compiler_refuses_constraints():
    with pytest.raises(UsageError, match="GrammarCompiler"):
        Engine(tiny_model("sequential")).add(Request(prompt=[1], sampling=Sampling(json_object=True)))


def test_a_constrained_output_ends_where_nothing_may_follow_and_at_end_of_text_where_it_may():
    model = tiny_model("sequential")
    fixed = Request(prompt=[3], sampling=Sampling(regex="abc12"))
    open_ended = Request(prompt=[3], sampling=Sampling(regex="a+", logit_bias={EOS: 100.0}))
    (tokens, reason, _), (repeated, reason_two, _) = run(engine_of(model), [fixed, open_ended])
    assert (text_of(tokens), reason, reason_two) == ("abc12", "stop", "stop")
    assert EOS not in tokens
    assert repeated[-1] == EOS
