import numpy as np
import pytest

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.world import Outcome
from srdp_controller.tasks import task as tasks
from srdp_controller.tasks.pushing.task import PushingTask
from srdp_controller.tasks.task import Task, TaskError, find_task, summarise


def test_an_installed_task_is_found_by_its_name_and_an_unknown_one_lists_them(monkeypatch):
    class Entry:
        name = "pushing"

        @staticmethod
        def load():
            return PushingTask

    monkeypatch.setattr(tasks, "entry_points", lambda group: [Entry] if group == "srdp_controller.tasks" else [])
    assert isinstance(find_task("pushing"), PushingTask)
    with pytest.raises(TaskError, match="no task 'pulling'; installed are: pushing; or give module:Class"):
        find_task("pulling")


def test_a_task_in_the_working_folder_is_found_by_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "my_robot_task.py").write_text(
        "from srdp_controller.tasks.task import Task\nclass Robot(Task):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in tasks.sys.path if entry])
    assert find_task("my_robot_task:Robot").name == "my_robot_task:Robot"
    with pytest.raises(TaskError, match="my_robot_task:Arm"):
        find_task("my_robot_task:Arm")
    with pytest.raises(TaskError, match="expected module:Name"):
        find_task("no_such_module:Arm")


def test_what_a_task_lacks_is_missed_by_its_name():
    class Bare(Task):
        name = "bare"

    with pytest.raises(TaskError, match="task 'bare' has no world, which is needed for evaluation"):
        Bare().make_world(Scenario(name="nominal"))
    with pytest.raises(TaskError, match=r"task 'bare' has no expert.*--expert module:Class"):
        Bare().require_expert(np.random.default_rng(0))


def test_metrics_are_summed_averaged_and_counted():
    episodes = [
        Outcome(metrics={"contacts": 2, "return": 1.0, "ways": "left"}),
        Outcome(metrics={"contacts": 1, "return": 2.0}),
        Outcome(metrics={"contacts": 0, "return": 6.0, "ways": "right"}),
    ]
    assert summarise(episodes) == {"contacts": 3, "return": 3.0, "ways": {"left": 1, "right": 1}}
