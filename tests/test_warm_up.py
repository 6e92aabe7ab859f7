"""The supervised warm-up: it learns what it is shown, in place, and nothing else is left behind."""

import pytest
import torch

from grpo_helpers import models
from grpo_helpers.profiles import TINY

from .cells import definitions

taught = definitions("10_your_own_task", "game", "ideal_reply", "demonstrations", "warm_up", "gentle_settings")
SOLVED = [((a, b), a * b, f"{a} * {b}") for a in (2, 3, 5, 7) for b in (4, 6, 8, 9, 10, 11, 12, 13)]
DEMONSTRATIONS = taught.demonstrations([taught.game(*solved) for solved in SOLVED], taught.ideal_reply)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.trains
@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "an adapter, folded in"])
def test_the_policy_itself_becomes_better_at_what_it_is_shown(adapter, capfd):
    model, tokenizer = models.load_policy(TINY)
    before, lora = weights(model), models.lora_config(TINY) if adapter else None
    log = taught.warm_up(model, tokenizer, DEMONSTRATIONS, lora=lora, epochs=4, learning_rate=2e-3)
    assert log["step"].tolist() == list(range(1, 9)) and log["loss"].tail(2).mean() < 0.8 * log["loss"].head(2).mean()
    after = weights(model)
    assert after.keys() == before.keys() and all(p.requires_grad for p in model.parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    attention = {name for name in after if any(part in name for part in TINY.lora_targets) and name.endswith("weight")}
    assert changed == attention if adapter else changed >= attention
    assert not model.training and model.config.use_cache
    assert "{'loss'" not in capfd.readouterr().out


@pytest.mark.trains
def test_only_the_completion_is_learned():
    (model, tokenizer), rows = models.load_policy(TINY), DEMONSTRATIONS.select(range(16))
    log = taught.warm_up(model, tokenizer, rows, 1, 0.0, None)  # one batch
    found = []
    for row in rows:
        start = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        found += logps.gather(-1, torch.tensor(ids)[1:, None])[len(start) - 1 :, 0].tolist()
    assert log["loss"].iloc[0] == pytest.approx(-sum(found) / len(found), abs=1e-3)


def test_a_float32_policy_trains_all_weights_and_a_16_bit_one_an_adapter():
    model, _ = models.load_policy(TINY)
    assert taught.gentle_settings(model, TINY) == {"epochs": 4, "learning_rate": 1e-3, "lora": None}
    adapter = taught.gentle_settings(model.to(torch.bfloat16), TINY)
    assert adapter["lora"].r == TINY.lora_rank and adapter["epochs"] == 3 and adapter["learning_rate"] == 4e-3
