"""Notebook 13: what is kept, counted and compared, the trainers that are quicker than TRL's, and the recorder."""

from decimal import Decimal

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DistillationConfig, DistillationTrainer, RLOOConfig, RLOOTrainer

from grpo_helpers import data, models
from grpo_helpers.profiles import TINY
from grpo_helpers.prompts import XML_COT_FORMAT
from record import alternatives

from .cells import definitions

NOTEBOOK = "13_alternatives"
taught = definitions(
    NOTEBOOK,
    *("kept", "vote", "kl", "log_probs", "pretraining_texts", "apart", "rejection", "Looks", "run"),
    *("QuickRLOO", "QuickDistillation", "verdict_func", "questions", "RECIPE", "shared", "teacher", "WAYS"),
    *("Race", "Reached", "on_the_way"),
)
QUICK = TINY.with_(steps=4, eval_questions=8)


def block(answer, reasoning="6 * 7 = 42"):
    return XML_COT_FORMAT.format(reasoning=reasoning, answer=answer)


def test_rejection_keeps_the_right_ones_once():
    asked = Dataset.from_list([{"prompt": "a", "answer": "42"}, {"prompt": "b", "answer": "7"}])
    said = [block("42"), block("42"), block("41"), "42", block("42.0", "Easy.")]
    found = taught.kept(asked, [[(text, False) for text in said], [(block("42"), False)]])
    assert [(row["prompt"], row["completion"][0]["content"]) for row in found] == [("a", said[0]), ("a", said[4])]


@pytest.mark.parametrize(
    "numbers, winner", [([1, 2, 2], 2), ([3, 1, 1, 3], 3), ([None, None, 5], 5), ([None], None), ([], None)]
)
def test_a_vote(numbers, winner):
    assert taught.vote([n if n is None else Decimal(n) for n in numbers]) == winner


def test_kl_is_torchs_and_zero_from_itself():
    p, q = (torch.randn(5, 7, generator=torch.Generator().manual_seed(s)).log_softmax(-1) for s in (0, 1))
    wanted = torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
    assert taught.kl(p, q) == pytest.approx(float(wanted)) and taught.kl(p, p) == 0
    assert taught.kl(p, q) != pytest.approx(taught.kl(q, p))


def test_log_probs_of_a_batch_are_those_of_each_text_by_itself(policy):
    model, tokenizer = policy
    texts = sum(taught.pretraining_texts(tokenizer, 3).values(), [])
    found, tokens = taught.log_probs(model, texts)
    assert tokens.tolist() == [token for _, said in texts for token in said]
    singly = torch.cat([taught.log_probs(model, [text])[0] for text in texts])
    assert torch.allclose(found, singly, atol=1e-4)
    prompt, said = texts[0]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1]
    assert torch.allclose(found[: len(said)], logits.log_softmax(-1), atol=1e-4)


def test_pretraining_texts_are_new_and_of_two_kinds(policy):
    _, tokenizer = policy
    texts = taught.pretraining_texts(tokenizer, 4)
    assert {kind: len(pairs) for kind, pairs in texts.items()} == {"asked for": 4, "not asked for": 4}
    known = [row["question"] for split in ("train", "test") for row in data.word_problem_rows(split)]
    for kind, pairs in texts.items():
        for prompt, said in pairs:
            text = tokenizer.decode(prompt)
            assert ("<reasoning>" in text) is (kind == "asked for") and not any(question in text for question in known)
            assert said[-1] == tokenizer.eos_token_id


def test_two_ways_are_apart_only_if_all_seeds_are():
    values = pd.DataFrame([[0.5, 0.6], [0.7, 0.8], [0.6, 0.9]], index=["a", "b", "c"])
    assert taught.apart(values) == {("b", "a")}


def test_a_race_is_over_where_the_target_is_reached():
    race = taught.Race(lambda model: {"right": model}, at=(1, 2, 3))
    race.on_step_end(None, None, None, model=0.7)
    with pytest.raises(taught.Reached):
        race.on_step_end(None, None, None, model=0.75)
    assert race.policy == 0.75 and [row["step"] for row in race.rows] == [1, 2]


def test_what_a_run_had_cost_where_it_reached_the_target():
    run = pd.DataFrame({"right": [0.1, 0.7, 0.8, 0.7], "KL": [1e-4, 0.01, 0.04, 0.5]})
    assert taught.on_the_way(run, "KL") == pytest.approx(0.02)  # half way, in the logarithm
    assert pd.isna(taught.on_the_way(run.head(2), "KL"))


class Note(TrainerCallback):
    """The gradients before an update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradients(trainer_class, config, second, tmp_path, groups):
    """What one update by a trainer sees as gradients, all sampling replaced by the same completions."""
    model, tokenizer = models.load_policy(taught.RECIPE)
    sizes = {"per_device_train_batch_size": 4, "max_completion_length": 8} | groups
    args = config(tmp_path, **taught.shared(1e-3, 1, 1, **sizes))
    rows = taught.questions()[0].select(range(8))
    trainer = trainer_class(model, second, args, rows, processing_class=tokenizer, peft_config=models.lora_config(TINY))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Easy.", "4 * 2 = 8", "The", "8\n9")]
    trainer._generate_single_turn = lambda prompt_ids, *args: ids[: len(prompt_ids)]
    trainer.add_callback(note := Note())
    taught.run(trainer)
    return note.seen


def some_right(completions, **kwargs):
    return [float("=" in completion[0]["content"]) for completion in completions]


@pytest.mark.trains
@pytest.mark.parametrize(
    "ours, theirs, config, second, groups",
    [
        (taught.QuickRLOO, RLOOTrainer, RLOOConfig, lambda: some_right, {"num_generations": 4, "beta": 0.0}),
        (taught.QuickDistillation, DistillationTrainer, DistillationConfig, taught.teacher, {}),
    ],
    ids=["RLOO", "distillation"],
)
def test_the_quicker_trainers_have_trls_gradients(ours, theirs, config, second, groups, tmp_path):
    mine, wanted = (gradients(kind, config, second(), tmp_path, groups) for kind in (ours, theirs))
    assert mine.keys() == wanted.keys() and any(grad.abs().max() > 1e-4 for grad in wanted.values())
    for name, grad in wanted.items():
        assert torch.allclose(mine[name], grad, atol=1e-5), name


@pytest.mark.trains
def test_rejection_counts_what_it_sampled_and_rounds_share_an_adapter():
    looks = taught.Looks(lambda model: {"adapters": len(model.peft_config)}, at=(2, 4))
    taught.rejection(1e-3, 1, looks, steps=4, rounds=2)
    assert [(row["step"], row["completions"], row["adapters"]) for row in looks.rows] == [(2, 128, 1), (4, 256, 1)]
    assert looks.rows[0]["seconds"] < looks.rows[1]["seconds"]


@pytest.mark.trains
def test_the_recorder_searches_until_the_best_is_inside_and_compares(monkeypatch):
    with monkeypatch.context() as patch:  # a way whose policy is the share that it gets right
        ends = {2e-3: 0.3, 1e-3: 0.1, 4e-3: 0.2}
        patch.setattr(alternatives.taught, "RATES", (2e-3,))
        patch.setattr(alternatives.taught, "WAYS", {"GRPO": lambda rate, seed, looks, **options: ends[rate]})
        patch.setattr(alternatives.taught, "right_rate", lambda policy, *args: policy)
        tried = alternatives.rates("GRPO", QUICK, 11)["tried"]
    runs = [(rate, seed, ends[rate]) for rate in ends for seed in (11, 12)]
    assert list(zip(tried["rate"], tried["seed"], tried["right"], strict=True)) == runs
    found = pd.DataFrame({"rate": [1e-3, 2e-3, 4e-3], "right": [0.1, 0.3, 0.2]})
    monkeypatch.setattr(alternatives.records, "load", lambda *args: {"tried": found})
    monkeypatch.setattr(alternatives.taught, "SEARCHES", {"GRPO": "grpo"})
    tables = alternatives.alternatives(QUICK, 1)
    curves, votes = tables["curves"], tables["votes"]
    assert list(zip(curves["way"], curves["step"], strict=True)) == [("untrained", 0), ("GRPO", 2), ("GRPO", 4)]
    assert curves["KL asked for"].iloc[0] == 0 < curves["KL asked for"].iloc[-1]
    assert set(votes["policy"]) == {"untrained", "GRPO"} and votes["right"].between(0, 1).all()
