"""What is on disk stays whole: files, output folders, and runs that are resumed."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from grpo_helpers.files import LOCK, held, read_json, write_json, write_text
from grpo_helpers.profiles import ROOT, TINY
from grpo_helpers.run import check_same_run, move_aside


def test_text_and_json_are_read_back_as_written(tmp_path):
    for text in ("something old and longer", "π \u2028 \U0001f600\r\n", ""):
        write_text(str(tmp_path / "a.txt"), text)
        assert (tmp_path / "a.txt").read_bytes().decode() == text
    value = {"a": [1, 2.5, None, True, "π"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.txt"]
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644, "as a normal file"


@pytest.mark.parametrize("fails", ["fdopen", "chmod", "replace"])
def test_failed_write_leaves_the_old_file_or_none_and_nothing_else(monkeypatch, tmp_path, fails):
    write_json(tmp_path / "old.json", {"old": 1})
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        for name in ("old.json", "new.json"):
            with monkeypatch.context() as patch, pytest.raises(type(error)):
                patch.setattr(os, fails, Mock(side_effect=error))
                write_text(tmp_path / name, "new")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "old.json", "new" * 100_000 + "\ud800")
    assert os.listdir(tmp_path) == ["old.json"] and read_json(tmp_path / "old.json") == {"old": 1}


@pytest.mark.parametrize("text", ["", '{"a": 1', "[]", "null", "{}", '{"a": 1}', "[" * 100_000])
def test_json_that_is_broken_no_object_or_lacks_a_field_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    told = "is not valid JSON" if text in ("", '{"a": 1', "[" * 100_000) else ".*not written by this package"
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'run.json'))} {told}"):
        read_json(tmp_path / "run.json", a=str)


def test_folder_is_made_held_by_one_and_let_go_and_removed_if_nothing_came_of_it(tmp_path):
    folder = tmp_path / "a" / "b"
    other = pytest.raises(BlockingIOError, match=f"another run \\(process {os.getpid()}\\) is writing to {folder}")
    with held(folder):
        with other, held(folder):
            pass
        (folder / "notes.txt").write_text("mine")
    with held(folder):
        assert (folder / LOCK).read_text() == str(os.getpid())
    assert os.listdir(folder) == ["notes.txt"]
    for place in (folder, folder / "new"):
        with contextlib.suppress(KeyError), held(place):
            raise KeyError
    assert os.listdir(folder) == ["notes.txt"]


def test_lock_of_a_killed_process_is_taken_over_and_said_so(tmp_path, capsys):
    code = "import sys, time; from grpo_helpers.files import held\n"
    code += "with held(__import__('pathlib').Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError, match=f"process {process.pid}"), held(tmp_path):
        pass
    process.kill()
    process.wait()
    with held(tmp_path):
        assert f"process {process.pid}, which was writing" in capsys.readouterr().out
    with held(tmp_path):
        assert capsys.readouterr().out == ""


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(95, "Operation not supported")))
    with held(tmp_path):
        assert "cannot be locked (Operation not supported)" in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_named_with_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "tiny-42").write_text("mine")
    with pytest.raises(PermissionError, match=rf"{re.escape(str(tmp_path / 'tiny-42'))} .*--output"):
        held(tmp_path / "tiny-42").__enter__()
    assert (tmp_path / "tiny-42").read_text() == "mine"
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError, match=rf"{re.escape(str(tmp_path))} \(Permission denied\); .*--output"):
        held(tmp_path).__enter__()


def a_run(folder, mark="run"):
    folder.mkdir(exist_ok=True)
    write_json(folder / "run.json", {"mark": mark})
    (folder / "history.csv").write_text("step\n1\n")


def test_earlier_runs_are_moved_aside_and_said_so(tmp_path, capsys, monkeypatch):
    output = tmp_path / "tiny-42"
    for mark in ("first", "second"):
        a_run(output, mark)
        (output / "notes.txt").write_text("mine")
        monkeypatch.chdir(output)
        move_aside(Path("."))
    marks = {path.parent.name: read_json(path) for path in tmp_path.glob("*/run.json")}
    assert marks == {"tiny-42.old1": {"mark": "first"}, "tiny-42.old2": {"mark": "second"}}
    assert (tmp_path / "tiny-42.old1" / "history.csv").exists()
    assert os.listdir(output) == ["notes.txt"], "what is of no run is left alone"
    assert "tiny-42.old1" in capsys.readouterr().out
    move_aside(output)
    assert capsys.readouterr().out == ""


def test_move_that_was_cut_short_leaves_no_run_behind(monkeypatch, tmp_path):
    output, rename, moved = tmp_path / "tiny-42", Path.rename, []
    a_run(output)

    def killed(path, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(rename(path, target))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        move_aside(output)
    assert not (output / "run.json").exists() and (output / "history.csv").exists()
    move_aside(output)
    assert os.listdir(output) == [] and (tmp_path / "tiny-42.old2" / "history.csv").exists()


def facts(seed=42, weights_sha256="a" * 64, **changes):
    return {"profile": TINY.with_(**changes).as_dict(), "seed": seed, "weights_sha256": weights_sha256}


def test_each_field_that_differs_is_named_with_both_values_and_what_does_not_change_the_policy_may_differ(tmp_path):
    write_json(tmp_path / "run.json", facts())
    saved = read_json(tmp_path / "run.json")  # tuples are lists now
    check_same_run(saved, facts())
    check_same_run(saved, facts(steps=200, minutes=6.0, save_steps=5, eval_batch=10))
    changes = {"lora_targets": ["q_proj"], "eval_questions": 10, "beta": 0.1, "system_prompt": None}
    changes |= {"seed": 1, "weights_sha256": "b"}
    with pytest.raises(ValueError, match="--output") as caught:
        check_same_run(saved, facts(steps=7, **changes))
    said, old = str(caught.value), saved | saved["profile"]
    assert set(re.findall(r"(\w+) was (?!started)", said)) == changes.keys()
    assert all(f"{field} was {old[field]!r}, now {new!r}" in said for field, new in changes.items())
