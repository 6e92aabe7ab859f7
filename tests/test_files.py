"""What is on disk stays whole: files, output folders, and runs that are resumed."""

import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from grpo_helpers.files import read_json, write_json, write_text
from grpo_helpers.profiles import TINY
from grpo_helpers.run import check_same_run, prepare_output

# --- files ------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "one line", "two\nlines\n", "π \u2028 \U0001f600", "x" * 1_000_000])
@pytest.mark.parametrize("convert", [Path, str])
def test_text_is_read_back_as_written(tmp_path, text, convert):
    write_text(convert(tmp_path / "a.txt"), "something old and longer")
    write_text(convert(tmp_path / "a.txt"), text)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["a.txt"]


def test_file_is_readable_by_others_as_a_normal_one(tmp_path):
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("fails", ["fdopen", "chmod", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_failed_write_leaves_the_old_file_and_nothing_else(monkeypatch, tmp_path, fails, error, old):
    if old is not None:
        (tmp_path / "a.txt").write_text(old)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(type(error)):
        write_text(tmp_path / "a.txt", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({} if old is None else {"a.txt": old})


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "new" * 100_000 + "\ud800")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


def test_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_reader_sees_the_old_text_until_the_new_one_is_whole(monkeypatch, tmp_path):
    write_text(tmp_path / "a.txt", "old")
    seen, replace = [], os.replace

    def look_then_replace(source, target):
        seen.append(((tmp_path / "a.txt").read_text(), Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    write_text(tmp_path / "a.txt", "new")
    assert seen == [("old", "new")]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "π"]}, [], "text", 3])
def test_json_is_read_back_as_written(tmp_path, value):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "{'a': 1}"])
def test_broken_json_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / 'run.json'))} is not valid JSON"):
        read_json(tmp_path / "run.json")


# --- output folder ----------------------------------------------------------


def a_run(folder, mark="run"):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(mark))
    (folder / "history.csv").write_text("step\n1\n")


def marks(folder):
    return {p.name: json.loads((p / "run.json").read_text()) for p in folder.iterdir() if (p / "run.json").exists()}


def test_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    prepare_output(tmp_path / "a" / "b" / "c", resume=False)
    assert os.listdir(tmp_path / "a" / "b" / "c") == []


def test_earlier_runs_are_moved_aside_and_said_so(tmp_path, capsys):
    output = tmp_path / "tiny-42"
    for mark in ("first", "second"):
        a_run(output, mark)
        prepare_output(output, resume=False)
    assert marks(tmp_path) == {"tiny-42.old1": "first", "tiny-42.old2": "second"}
    assert (tmp_path / "tiny-42.old1" / "history.csv").exists()
    assert os.listdir(output) == []
    assert "tiny-42.old1" in capsys.readouterr().out


def test_files_of_no_run_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    prepare_output(tmp_path, resume=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resumed_run_stays_where_it_is(tmp_path, capsys):
    a_run(tmp_path / "tiny-42")
    prepare_output(tmp_path / "tiny-42", resume=True)
    assert marks(tmp_path) == {"tiny-42": "run"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("made", [False, True])
def test_nothing_to_resume_is_named_and_nothing_is_made(tmp_path, made):
    output = tmp_path / "tiny-42"
    if made:
        output.mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(output))}.*run\.json.*--resume"):
        prepare_output(output, resume=True)
    assert output.exists() == made


def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("owner", "name"), [(tempfile, "TemporaryFile"), (Path, "mkdir")], ids=["write", "make"])
def test_folder_that_cannot_be_written_is_named_with_the_remedy(monkeypatch, tmp_path, owner, name, resume):
    output = tmp_path / "tiny-42"
    if resume:
        a_run(output)
    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(PermissionError, match=rf"{re.escape(str(output))} \(Permission denied\); .*--output"):
        prepare_output(output, resume)


def test_earlier_run_that_cannot_be_moved_is_named_with_the_remedy(monkeypatch, tmp_path):
    a_run(tmp_path / "tiny-42")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match=rf"{re.escape(str(tmp_path / 'tiny-42'))}.*--output"):
        prepare_output(tmp_path / "tiny-42", resume=False)
    assert marks(tmp_path) == {"tiny-42": "run"}


@pytest.mark.parametrize("below", [False, True])
def test_file_in_the_way_is_named_and_kept(tmp_path, below):
    (tmp_path / "tiny-42").write_text("mine")
    output = tmp_path / "tiny-42" / "a" if below else tmp_path / "tiny-42"
    with pytest.raises(PermissionError, match=rf"{re.escape(str(output))} .*--output"):
        prepare_output(output, resume=False)
    assert (tmp_path / "tiny-42").read_text() == "mine"


# --- resuming under the same recipe -----------------------------------------


def facts(seed=42, **changes):
    return {"profile": TINY.with_(**changes).as_dict(), "seed": seed, "weights_sha256": "a" * 64}


def saved(tmp_path, seed=42, **changes):
    """Facts as they come back from run.json: tuples are lists now."""
    write_json(tmp_path / "run.json", facts(seed, **changes))
    return read_json(tmp_path / "run.json")


def test_same_run_may_be_resumed(tmp_path):
    check_same_run(saved(tmp_path), facts())


@pytest.mark.parametrize("change", [{"steps": 200}, {"minutes": 6.0}, {"save_steps": 5}, {"eval_batch": 10}], ids=str)
def test_what_does_not_change_the_policy_may_change(tmp_path, change):
    check_same_run(saved(tmp_path), facts(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 43}, {"learning_rate": 1e-5}, {"model": "other/model"}, {"batch": 32}, {"num_generations": 4},
        {"beta": 0.04}, {"temperature": 0.9}, {"lora_rank": 16}, {"lora_targets": ("q_proj",)},
        {"problem_steps": (1,)}, {"system_prompt": None}, {"max_samples": 10}, {"eval_questions": 10},
        {"eval_temperatures": (0.0,)}, {"name": "mine"},
    ],
    ids=str,
)  # fmt: skip
def test_other_recipe_is_refused_with_the_field_and_both_values(tmp_path, change):
    ((field, value),) = change.items()
    old = (TINY.as_dict() | {"seed": 42})[field]
    old, new = ([*x] if isinstance(x, tuple) else x for x in (old, value))
    with pytest.raises(ValueError, match=re.escape(f"({field} was {old!r}, now {new!r})") + ".*--output"):
        check_same_run(saved(tmp_path), facts(**change))


def test_every_differing_field_is_named_and_no_other(tmp_path):
    with pytest.raises(ValueError) as caught:
        check_same_run(saved(tmp_path), facts(seed=1, steps=7, beta=0.1, batch=8))
    assert re.findall(r"(\w+) was (?!started)", str(caught.value)) == ["batch", "beta", "seed"]


def test_field_that_the_saved_run_did_not_know_is_named(tmp_path):
    old = saved(tmp_path)
    del old["profile"]["loss_type"]
    with pytest.raises(ValueError, match="loss_type was None, now 'dapo'"):
        check_same_run(old, facts())


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="weights_sha256 was 'a+', now 'b+'"):
        check_same_run(saved(tmp_path), facts() | {"weights_sha256": "b" * 64})
