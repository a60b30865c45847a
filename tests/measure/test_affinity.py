from __future__ import annotations

from pathlib import Path

from unrollbench.measure.affinity import chosen_cpus, usable_cpus


def topology(root: Path, *cores: str) -> Path:
    """A root folder where each of `cores`, such as "0,4", lists the hardware threads of one core."""
    for core in cores:
        for cpu in core.split(","):
            folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(core + "\n")
    return root


def test_cores_come_before_second_threads_of_cores_and_processor_0_last(tmp_path: Path) -> None:
    root = topology(tmp_path, "0,2", "1,3")
    assert chosen_cpus(1, range(4), root) == (3,)
    assert chosen_cpus(2, range(4), root) == (2, 3)
    assert chosen_cpus(3, range(4), root) == (1, 2, 3)
    assert chosen_cpus(4, range(4), root) == (0, 1, 2, 3)


def test_without_a_topology_each_processor_is_a_core(tmp_path: Path) -> None:
    assert chosen_cpus(2, (0, 1, 5), tmp_path) == (1, 5)


def test_more_than_there_are_cannot_be_chosen(tmp_path: Path) -> None:
    assert chosen_cpus(3, (0, 1), tmp_path) is None


def test_this_process_can_run_somewhere() -> None:
    assert usable_cpus()
