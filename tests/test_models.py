"""Loading a policy: chat templates, end tokens and layers of every kind, made by hand from the tiny policy's."""

import contextlib
import json
import re
import shutil

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Qwen2Config
from trl import GRPOTrainer

from grpo_helpers import data, models
from grpo_helpers.lessons import probing
from grpo_helpers.profiles import ALL_LINEAR, ATTENTION, DATA, TINY
from grpo_helpers.prompts import build_messages, prompt_ids

TINY_POLICY = DATA / "tiny_policy"
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking is defined and not thinking %}no {% endif %}"
    "{% endif %}"
)
REFUSES = "{% for m in messages if m['role'] == 'system' %}{{ raise_exception('No system role') }}{% endfor %}" + TURNS
DROPS = TURNS.replace("in messages %}", "in messages if m['role'] != 'system' %}")
CHAT = build_messages("How many?", "Be brief.", [("1 + 1?", "2")])
SIZES = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 512}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None}


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_POLICY, padding_side="left")


@pytest.fixture
def made(tmp_path):
    """A profile for a model folder that is the tiny policy's but for its template, end tokens or architecture."""

    def make(template=None, ends=2, architecture=Qwen2Config, **tokens):
        config = architecture(**SIZES, eos_token_id=ends, pad_token_id=0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        for name in ("tokenizer.json", "chat_template.jinja"):
            shutil.copy(TINY_POLICY / name, tmp_path)
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        settings = json.loads((TINY_POLICY / "tokenizer_config.json").read_text()) | tokens
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return TINY.with_(model=str(tmp_path))

    return make


def read_in_training(tokenizer, prompt):
    """The tokens of `prompt` by TRL's own code."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.__dict__.update(processing_class=tokenizer, environment_factories=None, tools=[], chat_template=None)
    trainer.__dict__.update(chat_template_kwargs={}, _is_vlm=False)
    return trainer._tokenize_prompts([prompt])[0][0]


@pytest.mark.parametrize("arguments", [None, {"thinking": False}])
@pytest.mark.parametrize("template", [None, TURNS, REFUSES, DROPS])
def test_a_prompt_is_the_same_in_training_evaluation_and_probes(made, template, arguments):
    _, tokenizer = models.load_policy(made(template).with_(chat_template_kwargs=arguments))
    for prompt in (CHAT, CHAT[1:], "raw text 1 + 1 ="):
        train, lengths = read_in_training(tokenizer, prompt), probing.prompt_lengths(tokenizer, [prompt])
        assert prompt_ids(tokenizer, [prompt]) == [train] and lengths == [len(train)] and not prompt_ids(tokenizer, [])
        text = tokenizer.decode(train)
        if isinstance(prompt, str):
            assert text == prompt, "as TRL reads it: no template"
        else:
            assert all(text.count(message["content"]) == 1 for message in prompt)
            assert text.endswith("assistant\nno " if template and arguments else "assistant\n")
        rows = Dataset.from_list([{"question": "?", "prompt": prompt, "answer": "1"}])
        assert len(data.drop_long_prompts(rows, tokenizer, len(train))[0]) == 1
        with pytest.raises(ValueError, match=f"the shortest has {len(train)}"):
            data.drop_long_prompts(rows, tokenizer, len(train) - 1)


@pytest.mark.parametrize("template", [TURNS, REFUSES, DROPS])
def test_a_template_without_a_system_role_gets_the_text_in_the_first_question_and_says_so(
    made, tmp_path, template, capsys
):
    _, tokenizer = models.load_policy(made(template).with_(chat_template_kwargs={"thinking": False}))
    folded = template != TURNS
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ("user\nBe brief.\n\n1 + 1?<" in text) == folded and ("system" in text) != folded
    assert ("no system message" in capsys.readouterr().out) == folded
    plain = tokenizer.apply_chat_template(CHAT[1:], tokenize=False, add_generation_prompt=True)
    assert "Be brief" not in plain and plain.count("<|im_start|>user") == 2
    tokenizer.save_pretrained(tmp_path / "again")
    assert prompt_ids(AutoTokenizer.from_pretrained(tmp_path / "again"), [CHAT]) == prompt_ids(tokenizer, [CHAT])


def test_arguments_of_every_kind_reach_the_template(tokenizer):
    given = tokenizer.chat_template
    models.fit_template(tokenizer)
    assert tokenizer.chat_template == given, "a usual template is left as it is"
    template = TURNS + "{{ 'on' if mode else 'off' }}{{ mode if mode is string }}"
    for value, shown in ((False, "off"), (True, "on"), (None, "off"), ("it's", "onit's"), ([1, "a"], "on")):
        tokenizer.chat_template = template
        models.fit_template(tokenizer, {"mode": value})
        assert tokenizer.apply_chat_template(CHAT, tokenize=False).endswith(shown)


def test_a_template_that_cannot_be_used_is_named(made, tmp_path):
    for template in ("", "{% for m in", "{{ raise_exception('never') }}", "the same", "{{ 1 / 0 }}"):
        with pytest.raises(ValueError, match="chat template cannot be used"):
            models.load_policy(made(template))
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="-Instruct"):
        models.load_policy(TINY.with_(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("tokens", "shipped", "ends"),
    [
        ({}, [2, 0], [2, 0]),
        ({}, [5, 0], [2, 5, 0]),  # the tokenizer's own counts although the model does not name it
        ({}, None, [2]), ({"eos_token": None}, 5, [5]), ({"eos_token": None, "pad_token": None}, [5, 2], [5, 2]),
    ],
)  # fmt: skip
def test_all_end_tokens_that_a_model_ships_end_a_turn(made, tokens, shipped, ends):
    model, tokenizer = models.load_policy(made(ends=shipped, **tokens))
    assert models.end_ids(model, tokenizer) == ends
    assert model.generation_config.eos_token_id == (ends if len(ends) > 1 else ends[0])
    assert tokenizer.eos_token_id == ends[0] and tokenizer.pad_token_id is not None


@pytest.mark.parametrize(("shipped", "silent"), [(0, False), ([0, 2], True)])
def test_a_template_that_ends_turns_with_another_token_is_told(made, shipped, silent, capsys):
    """A base model: its template closes a turn with <|im_end|>, its tokenizer names another end."""
    models.load_policy(made(ends=shipped, eos_token="<|endoftext|>"))
    said = capsys.readouterr().out
    assert said == "" if silent else all(text in said for text in ("<|im_end|>", "<|endoftext|>", "length limit"))
    with pytest.raises(ValueError, match="set eos_token"):
        models.load_policy(made(ends=None, eos_token=None))  # all would run to the limit


@pytest.mark.parametrize(("rows", "refused"), [(1023, True), (1024, False), (2000, False)])
def test_a_tokenizer_of_another_model_is_refused(made, rows, refused, monkeypatch):
    """On a GPU its first question would be a failed assertion of the device, and the end of the process."""
    monkeypatch.setitem(SIZES, "vocab_size", rows)
    with pytest.raises(ValueError, match=f"1024 tokens, the model {rows}") if refused else contextlib.nullcontext():
        models.load_policy(made())


def test_weights_that_would_be_random_are_refused(made, tmp_path):
    profile, file, config = made(), tmp_path / "model.safetensors", tmp_path / "config.json"
    config.write_text((whole := config.read_text()).replace('"intermediate_size": 64', '"intermediate_size": 32'))
    with pytest.raises(ValueError, match="lacks 6 weights.*another shape"):
        models.load_policy(profile)
    config.write_text(whole)
    save_file({f"base_model.model.{name}": w for name, w in load_file(file).items()}, file, {"format": "pt"})  # PEFT's
    with pytest.raises(ValueError, match="they would be random"):
        models.load_policy(profile)


def test_a_system_text_is_folded_in_whatever_a_template_is_made_of(tokenizer):
    alternating = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    )
    begins = ("", "{%- macro turn(m) -%}{%- endmacro -%}", "{%- set ns = namespace(n=0) -%}")
    for template in (*(begin + alternating for begin in begins), {"default": REFUSES, "tool_use": TURNS}):
        tokenizer.chat_template = template
        models.fit_template(tokenizer)
        text = tokenizer.apply_chat_template(CHAT, tokenize=False)
        assert text.index("Be brief.\n\n1 + 1?") < text.index("How many?")


@pytest.mark.parametrize(
    ("architecture", "targets", "missing"),
    [
        (Qwen2Config, ALL_LINEAR, []), (Qwen2Config, ("self_attn.q_proj", "lm_head"), []),
        (Phi3Config, ("qkv_proj", "o_proj", "gate_up_proj"), []),
        (Phi3Config, ATTENTION, ["q_proj", "k_proj", "v_proj"]),  # o_proj alone would be adapted
        (Qwen2Config, ("proj",), ["proj"]), (Qwen2Config, (*ATTENTION, "query"), ["query"]),
    ],
)  # fmt: skip
def test_lora_targets_that_match_nothing_are_refused_by_name(made, architecture, targets, missing):
    profile = made(architecture=architecture).with_(lora_targets=targets)
    told = f"{re.escape(str(missing))}.*'{'qkv_proj' if architecture is Phi3Config else 'q_proj'}'"
    with pytest.raises(ValueError, match=told) if missing else contextlib.nullcontext():
        models.load_policy(profile)
