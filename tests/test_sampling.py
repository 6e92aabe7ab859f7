"""Sampling shares work between prompts and completions; what comes out must not show it."""

import pytest
import torch
from scipy.stats import chisquare
from transformers import Qwen2Config, Qwen2ForCausalLM

from grpo_helpers.fast.sampling import next_tokens, packed_linears, pad_left, prefill, sample, supports_sharing

NO_EOS = -1
PROMPTS = {
    "ragged, common beginning": [[5, 6, 7, 8, 9], [5, 6, 7, 4], [5, 6, 7, 8, 20, 21, 22], [5, 6, 7, 8, 9, 10]],
    "ragged, no common beginning": [[5], [6, 7], [7, 8, 9, 10, 11, 12, 13], [40, 41, 42]],
    "one a beginning of another": [[5, 6], [5, 6, 7], [5, 6, 7, 8, 9]],
    "all alike": [[5, 6, 7]] * 3, "one prompt": [[5, 6, 7, 8]], "one token": [[5], [5], [6]],
}  # fmt: skip


def random_model(vocabulary=64, end=None, **config):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": 0}
    sizes = {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, **shape, **sizes, **ends, **config)).eval()


@pytest.fixture(scope="module")
def model():
    return random_model()


def greedy(model, prompts, max_new_tokens):
    """What transformers' own loop gives, without an end."""
    ids, mask = pad_left(prompts, 0, "cpu")
    output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False)
    return output[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_greedy_completions_are_those_of_generate_and_finished_rows_end_and_do_not_disturb_the_others(model, prompts):
    whole = [row for row in greedy(model, prompts, 10) for _ in range(2)]
    for eos in {NO_EOS}.union(*whole):
        got = sample(model, prompts, max_new_tokens=10, eos_id=eos, pad_id=0, num_generations=2, temperature=0)
        assert got == [row[: row.index(eos) + 1] if eos in row else row for row in whole], eos


@pytest.mark.parametrize(("limit", "pad_id"), [(1, 0), (5, 7), (5, 63)])
def test_completions_are_cut_off_at_the_limit_and_the_padding_token_does_not_matter(model, limit, pad_id):
    prompts = PROMPTS["ragged, no common beginning"]
    got = sample(model, prompts, max_new_tokens=limit, eos_id=NO_EOS, pad_id=pad_id, temperature=0)
    assert got == [row[:limit] for row in greedy(model, prompts, 5)]


def p_value(tokens, probabilities):
    """Pearson's test that `tokens` are draws from `probabilities`; a token of probability zero fails it."""
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible].double()
    return chisquare(counts[possible].numpy(), (expected / expected.sum() * counts.sum()).numpy()).pvalue


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_next_tokens_are_draws_from_the_softmax(temperature):
    torch.manual_seed(1)
    logits = torch.randn(20)
    logits[[0, 7, 8, 19]] = -torch.inf
    tokens = next_tokens(logits.expand(50_000, -1), temperature)
    assert p_value(tokens, (logits / temperature).softmax(dim=-1)) > 0.001


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("impossible", [[0, 4], [0, 1, 3, 4], [1, 2, 3]], ids=str)
def test_token_of_probability_zero_is_never_drawn(monkeypatch, draw, impossible):
    logits = torch.zeros(1, 5)
    logits[:, impossible] = -torch.inf
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.full(size, draw))
    assert next_tokens(logits, 1.0).item() not in impossible


def test_pairs_of_sampled_tokens_follow_the_model():
    model, prompts, size, temperature = random_model(vocabulary=6), [[1, 2, 3], [1, 2], [4]], 4_000, 0.7
    torch.manual_seed(3)
    sampling = {"max_new_tokens": 2, "num_generations": size, "temperature": temperature}
    completions = sample(model, prompts, eos_id=NO_EOS, pad_id=0, **sampling)
    with torch.no_grad():
        for i, prompt in enumerate(prompts):
            logits = model(torch.tensor([[*prompt, token] for token in range(6)])).logits / temperature
            first, second = logits[0, -2].softmax(dim=-1), logits[:, -1].softmax(dim=-1)
            pairs = torch.tensor(completions[i * size : (i + 1) * size])
            assert p_value(6 * pairs[:, 0] + pairs[:, 1], (first[:, None] * second).flatten()) > 0.001


def test_a_failure_leaves_the_models_own_attention_in_place(model):
    with torch.no_grad(), pytest.raises(IndexError):
        prefill(model, [[5, 6], [5, 64]], pad_id=0)  # no such token
    assert model.config._attn_implementation == "sdpa"


def test_packed_layers_multiply_alike_and_are_put_back():
    model, x = random_model(), torch.randn(3, 5, 32).bfloat16()
    with packed_linears(model, rows=3):
        assert not any("forward" in m.__dict__ for m in model.modules()), "float32 is not packed"
    model = model.to(torch.bfloat16)
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        plain = layer(x)
        with packed_linears(model, rows=3):
            torch.testing.assert_close(layer(x), plain, atol=0.02, rtol=0.02)
            assert ("forward" in layer.__dict__) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
        assert torch.equal(layer(x), plain)
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_greedy_completions_in_bfloat16_are_as_likely_as_those_of_generate():
    """Two kernels may break a near tie differently, so what they give is compared, not the tokens."""
    exact, prompts = random_model(), PROMPTS["ragged, common beginning"]
    model = random_model().to(torch.bfloat16)
    with packed_linears(model, len(prompts)):
        got = sample(model, prompts, max_new_tokens=8, eos_id=NO_EOS, pad_id=0, temperature=0)
    with torch.no_grad():
        for prompt, completion in zip(prompts, got, strict=True):
            logits = exact(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
            chosen = logits[range(8), completion]
            assert (logits.max(dim=-1).values - chosen).max() < 0.1 * logits.std()


def test_sliding_windows_are_left_to_the_libraries():
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    assert supports_sharing(random_model()) and not supports_sharing(random_model(**windows))
