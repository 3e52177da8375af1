"""Task files: what is read, what is refused by its line, and how tasks are split."""

from pathlib import Path
from typing import Any

import pytest

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.task_file import Task, read_tasks, split_tasks
from sae_lens_ext.steering.rewards import LastNumberEquals


def number(prompt: str, answer: Any) -> LastNumberEquals:
    return LastNumberEquals({prompt: answer})


def test_prompts_and_answers_are_read_and_the_rest_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '\ufeff{"prompt": "2 + 3 =", "answer": 5, "level": 1}\n\n{"prompt": "ü", "answer": "1,000"}'
    )
    assert read_tasks(path, number) == [Task("2 + 3 =", 5), Task("ü", "1,000")]
    assert read_tasks(path, None) == [Task("2 + 3 ="), Task("ü")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"prompt": "b"', r"Line 3 of .*tasks.jsonl: it is no JSON \(.*such as {\"prompt\": \"2 \+ 3 =\""),
        ('["b", 1]', "Line 3 of .*: it is no JSON object"),
        ('{"answer": 1}', 'Line 3 of .*: its "prompt" is None and no text'),
        ('{"prompt": " ", "answer": 1}', "its \"prompt\" is ' ' and no text"),
        ('{"prompt": 3, "answer": 1}', 'its "prompt" is 3 and no text'),
        ('{"prompt": "b"}', 'Line 3 of .*: it has no "answer", which this reward needs'),
        ('{"prompt": "b", "answer": "five"}', "Line 3 of .*: LastNumberEquals was given 'five'"),
        ('{"prompt": "b", "answer": NaN}', "Line 3 of .*: LastNumberEquals was given nan"),
        ('{"prompt": "a", "answer": 2}', "Line 3 of .* has the prompt of line 1, 'a'"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f'{{"prompt": "a", "answer": 1}}\n\n{line}\n')
    with pytest.raises(CommandError, match=complaint):
        read_tasks(path, number)


def test_a_file_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read as UTF-8 text: .*No such file"):
        read_tasks(tmp_path / "none.jsonl", None)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CommandError, match="holds no task. Give lines such as {"):
        read_tasks(tmp_path / "empty.jsonl", None)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="cannot be read as UTF-8 text"):
        read_tasks(tmp_path / "bytes.jsonl", None)


def test_the_split_is_the_same_whatever_the_order_and_keeps_the_files_order() -> None:
    tasks = [Task(f"task {i}", i) for i in range(20)]
    training, held_out = split_tasks(tasks, 5)
    assert len(held_out) == 5 and sorted([*training, *held_out], key=lambda t: t.answer) == tasks
    assert [task.answer for task in training] == sorted(task.answer for task in training)
    assert split_tasks(tasks[::-1], 5) == (training[::-1], held_out)
    assert split_tasks(tasks, 0) == (tasks, [])
