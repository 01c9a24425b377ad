import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtp.checkpoint import export_hf, save_model
from tests.checkpoint.models import VOCABULARY, fresh, greedy, hugging_face
from tests.model.configurations import configurations


def exported(model, tokenizer, folder):
    save_model(folder / "model", model, tokenizer)
    return export_hf(folder / "model", folder / "exported")


def gradients_by_public_name(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@settings(max_examples=14, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configurations(), seed=st.integers(0, 99))
def test_logits_and_gradients_equal_transformers_on_the_exported_weights(config, seed, tokenizer, tmp_path_factory):
    config = config.model_copy(update={"vocab_size": VOCABULARY})
    ours = fresh(config, seed).train()
    theirs = hugging_face(exported(ours, tokenizer, tmp_path_factory.mktemp("parity"))).train()
    tokens = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(seed))
    our_logits, their_logits = ours.logits(ours(tokens)[0]), theirs(tokens).logits
    assert (our_logits - their_logits).abs().max() < 1e-4
    for logits in (our_logits, their_logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    got, expected = gradients_by_public_name(ours), gradients_by_public_name(theirs)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            got[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_future", [2, 3])
def test_transformers_mtp_generation_gives_our_greedy_tokens(tied, n_future, tokenizer, tmp_path):
    prediction = {"kind": "sequential", "n_future": n_future}
    model = fresh(tie_word_embeddings=tied, prediction=prediction).eval()
    theirs = hugging_face(exported(model, tokenizer, tmp_path))
    if n_future > 2:
        layers = "|".join(str(model.config.num_hidden_layers + k) for k in range(n_future - 1))
        theirs._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.({layers})\..*"]
    prompt = torch.randint(0, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(4))
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = greedy(model, prompt, 12)
    assert theirs.generate(prompt, **options)[0, 6:].tolist() == expected
    assert theirs.generate(prompt, use_mtp=True, **options)[0, 6:].tolist() == expected


@pytest.mark.parametrize("n_future", [2, 3])
def test_transformers_drafts_have_our_modules_logits(n_future, tokenizer, tmp_path, monkeypatch):
    from transformers.modeling_layers import MtpModel

    model = fresh(prediction={"kind": "sequential", "n_future": n_future}).eval()
    theirs = hugging_face(exported(model, tokenizer, tmp_path))
    layers = "|".join(str(model.config.num_hidden_layers + k) for k in range(n_future - 1))
    theirs._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.({layers})\..*"]
    drafted, forward = [], MtpModel.forward

    def recorded(self, *arguments, **options):
        drafted.append(forward(self, *arguments, **options))
        return drafted[-1]

    monkeypatch.setattr(MtpModel, "forward", recorded)
    prompt = torch.randint(0, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(4))
    theirs.generate(prompt, use_mtp=True, max_new_tokens=4, do_sample=False, eos_token_id=None)
    ids, logits, _ = drafted[0]
    row = torch.cat((prompt, torch.tensor([greedy(model, prompt, 1)]), ids[:, :-1]), dim=1)
    with torch.no_grad():
        states = model(row)
    for k in range(1, n_future):
        torch.testing.assert_close(logits[:, k - 1], model.logits(states[k], k + 1)[:, 5], atol=1e-4, rtol=1e-4)


def test_transformers_reads_the_exported_tokenizer(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(exported(fresh(), tokenizer, tmp_path))
    text = "def main(): return 'hello'"
    assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.eos_id
