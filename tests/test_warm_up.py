"""The supervised warm-up: it learns what it is shown, in place, and nothing else is left behind."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, is_progress_bar_enabled

from grpo_helpers import models
from grpo_helpers.experiments import countdown
from grpo_helpers.lessons import own_task
from grpo_helpers.lessons.warm_up import warm_up
from grpo_helpers.profiles import TINY

ROWS = countdown.games(2)[0].select(range(8))
DEMONSTRATIONS = own_task.demonstrations(ROWS, countdown.ideal_reply)
SETTINGS = {"epochs": 4, "learning_rate": 2e-3, "batch": 4}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.trains
@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "an adapter, folded in"])
def test_the_policy_itself_becomes_better_at_what_it_is_shown(adapter, capfd):
    model, tokenizer = models.load_policy(TINY)
    before, bars = weights(model), is_progress_bar_enabled()
    log = warm_up(model, tokenizer, DEMONSTRATIONS, lora=models.lora_config(TINY) if adapter else None, **SETTINGS)
    assert log["step"].tolist() == list(range(1, 9)) and log["loss"].tail(2).mean() < 0.8 * log["loss"].head(2).mean()
    after = weights(model)
    assert after.keys() == before.keys() and all(p.requires_grad for p in model.parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    attention = {name for name in after if any(part in name for part in TINY.lora_targets) and name.endswith("weight")}
    assert changed == attention if adapter else changed >= attention
    assert not model.training and model.config.use_cache and is_progress_bar_enabled() is bars
    assert "{'loss'" not in capfd.readouterr().out


@pytest.mark.trains
def test_the_same_seed_gives_the_same_weights():
    found = []
    for seed in (1, 1, 2):
        model, tokenizer = models.load_policy(TINY)
        warm_up(model, tokenizer, DEMONSTRATIONS, seed=seed, **SETTINGS | {"epochs": 1})
        found.append(weights(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.trains
def test_only_the_completion_is_learned():
    model, tokenizer = models.load_policy(TINY)
    (log,) = [warm_up(model, tokenizer, DEMONSTRATIONS, **SETTINGS | {"learning_rate": 0.0, "batch": 8, "epochs": 1})]
    texts = [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in DEMONSTRATIONS]
    starts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in DEMONSTRATIONS
    ]
    total, count = 0.0, 0
    for start, text in zip(starts, texts, strict=True):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        skip = len(tokenizer(start, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logps = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[skip - 1 :]
        total, count = total - float(logps.sum()), count + len(logps)
    assert log["loss"].iloc[0] == pytest.approx(total / count, abs=1e-3)


def test_what_cannot_work_is_refused_with_the_remedy():
    model, tokenizer = models.load_policy(TINY)
    with pytest.raises(ValueError, match=r"no column \['completion'\].*'prompt'"):
        warm_up(model, tokenizer, Dataset.from_list([{"prompt": row["prompt"]} for row in ROWS]))
    with pytest.raises(ValueError, match="bfloat16; pass lora="):
        warm_up(model.to(torch.bfloat16), tokenizer, DEMONSTRATIONS)
