"""The everyday benchmark as it is shipped."""

from pathlib import Path

from tagi.data.everyday import EVERYDAY_FILE, everyday_tasks, is_everyday_file
from tagi.data.task import TASK_METRICS


def test_the_shipped_tasks() -> None:
    tasks = everyday_tasks()
    assert len(tasks) == len({task.name for task in tasks}) == len({task.instruction for task in tasks}) == 24
    assert {task.metric for task in tasks} == set(TASK_METRICS) - {"exact_case", "number", "rouge_l_unicode"}
    for task in tasks:
        assert (len(task.instances), len(task.examples), len(task.paraphrases)) == (8, 2, 3)
        assert len({instance.input for instance in task.instances}) == 8
        assert not {example.input for example in task.examples} & {instance.input for instance in task.instances}
        assert (task.metric == "choice") == all(instance.choices for instance in task.instances)


def test_a_copy_is_recognised(tmp_path: Path) -> None:
    copy = tmp_path / "mine.jsonl"
    copy.write_bytes(EVERYDAY_FILE.read_bytes())
    assert is_everyday_file(copy)
    copy.write_bytes(EVERYDAY_FILE.read_bytes()[:-1])
    assert not is_everyday_file(copy)
    assert not is_everyday_file(tmp_path / "absent")
    assert not is_everyday_file(tmp_path)
