from ..prompts import XML_COT_FORMAT
from ._exercise import Solution, exercise, expect, mended


@exercise
def steps_shown(reward_func: Solution) -> None:
    """0.25 for a completion whose reasoning block holds an equals sign, else 0.0; in TRL's signature."""
    cases = {
        "a reasoning block with a calculation": (XML_COT_FORMAT.format(reasoning="6 * 12 = 72", answer="72"), 0.25),
        "a reasoning block without a calculation": (XML_COT_FORMAT.format(reasoning="easy", answer="72"), 0.0),
        "an equals sign outside the reasoning block": ("=" + XML_COT_FORMAT.format(reasoning="easy", answer="="), 0.0),
        "an equals sign before a stray closing tag": ("<reasoning>\neasy\n</reasoning>\n= 72\n</reasoning>", 0.0),
        "a reasoning block that is never opened": ("6 * 12 = 72\n</reasoning>", 0.0),
        "a reasoning block that is never closed": ("<reasoning>\n6 * 12 = 72", 0.0),
        "a reasoning block that is closed before it is opened": ("</reasoning>\n<reasoning>\n6 * 12 = 72", 0.0),
        "an equals sign before the block as well": ("x = ?\n<reasoning>\n6 * 12 = 72\n</reasoning>", 0.25),
        "a calculation spread over lines": ("<reasoning>\n6 * 12\n= 72\n</reasoning>", 0.25),
    }
    for case, (text, wanted) in cases.items():
        expect(reward_func(completions=[text], answer=["72"], prompts=["?"]), [wanted], case)
    texts, wanted = map(list, zip(*cases.values(), strict=True))
    expect(reward_func(completions=texts, answer=texts, prompts=texts), wanted, f"{len(texts)} completions at once")
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    expect(reward_func(completions=chats, answer=texts, prompts=texts), wanted, "completions given as conversations")


@exercise
def mend(function: Solution) -> None:
    """One changed setting, tried by the learner, with which the reward rises."""
    mended(function, {"learning_rate": 2e-5, "steps": 15})


@exercise
def go_on_from(function: Solution) -> None:
    """The step of the newest whole checkpoint, 0 if there is none; names map to whether they are whole."""
    cases = [({20: True, 40: True}, 40), ({100: True, 40: True}, 100), ({20: True, 40: False}, 20), ({20: False}, 0)]
    cases += [({}, 0), ({20: False, 40: True}, 40), ({20: True, 40: False, 60: False}, 20)]
    for steps, wanted in cases:
        checkpoints = {f"checkpoint-{step}": whole for step, whole in steps.items()}
        expect(function(dict(checkpoints)), wanted, f"the checkpoints {checkpoints}")
