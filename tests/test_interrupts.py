"""Kill it anywhere: the target is whole or absent, and nothing else was touched.

Python reports every file-system operation to audit hooks just before it happens. A child process
stops itself at the k-th one, for every k there is, so no point between two operations is left out.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import baking
import pytest

from mihack.errors import MihackError
from mihack.scaffold import stage
from mihack.scaffold.folder import Folder
from mihack.scaffold.write import locate, write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PLAN = {
    ".github/workflows/ci.yml": b"on: push\n",
    ".mihack.json": b"{}\n",
    "README.md": "Übung\n".encode(),
    "lab/__init__.py": b"",
    "lab/deep/er.py": b"x = 1\n",
    "notebook.ipynb": b"{}" * 5000,
}
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "os.scandir"}


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; its wait status. 0 is success, 3 a MihackError."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except MihackError:
            code = 3
        except SystemExit as leave:
            code = int(str(leave.code)) % 256
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def stopping_at(k: int, number: int, target: Path) -> Callable[[], None]:
    """Write ``target``, but send ourselves the signal ``number`` just before operation ``k``."""

    def work() -> None:
        count = 0

        def hook(event: str, arguments: object) -> None:
            nonlocal count
            if event in EVENTS:
                count += 1
                if count == k + 1:
                    os.kill(os.getpid(), number)

        sys.addaudithook(hook)
        write(PLAN, target)
        if count <= k:
            os._exit(7)  # it never came to operation k: the search is over

    return work


def every_point(number: int, prepare: Callable[[], Path]) -> Iterator[tuple[int, Path, int]]:
    """(k, target, wait status) for a run stopped at operation k = 0, 1, ... until none is left."""
    for k in range(500):
        target = prepare()
        status = in_child(stopping_at(k, number, target))
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
            assert k > 20, "hardly any operation was seen"
            return
        yield k, target, status
    pytest.fail("it never finished")


def fresh(tmp_path: Path, *, git: bool = False, empty: bool = False) -> Callable[[], Path]:
    """Make a parent with neighbours, and in it the target as asked for."""
    counter = iter(range(10**6))

    def prepare() -> Path:
        parent = tmp_path / f"case{next(counter)}"
        (parent / "mine").mkdir(parents=True)
        (parent / "mine" / "notes.txt").write_text("keep")
        target = parent / "repo"
        if git or empty:
            target.mkdir(mode=0o750)
        if git:
            (target / ".git").mkdir()
            (target / ".git" / "HEAD").write_text("ref")
        return target

    return prepare


def assert_neighbours_untouched(target: Path) -> None:
    assert tree(target.parent / "mine") == {"notes.txt": b"keep"}
    extra = set(names(target.parent)) - {"mine", "repo"}
    assert all(stage._NAME.fullmatch(name) for name in extra), extra


@pytest.mark.parametrize("empty", [False, True])
def test_sigkill_leaves_the_target_whole_or_absent(tmp_path: Path, empty: bool) -> None:
    absent = whole = swept = 0
    for k, target, status in every_point(signal.SIGKILL, fresh(tmp_path, empty=empty)):
        assert os.WIFSIGNALED(status), k
        assert_neighbours_untouched(target)
        if target.exists() and tree(target):
            assert tree(target) == PLAN, k
            whole += 1
        else:
            assert target.exists() == empty, k
            absent += 1
        # the next run clears up what is left, and works
        other = target.parent / "next"
        swept += len(write(PLAN, other))
        assert tree(other) == PLAN
        assert set(names(target.parent)) <= {"mine", "next", "repo"}, k
    assert absent > 10
    assert whole >= 1
    assert swept > 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("empty", [False, True])
def test_ctrl_c_and_sigterm_leave_nothing(tmp_path: Path, number: int, empty: bool) -> None:
    for k, target, status in every_point(number, fresh(tmp_path, empty=empty)):
        assert set(names(target.parent)) <= {"mine", "repo"}, k
        assert_neighbours_untouched(target)
        if target.exists() and tree(target):
            assert tree(target) == PLAN, k
        else:
            assert target.exists() == empty, k
            assert status != 0, k


def test_sigkill_in_a_folder_with_git_is_repaired_by_the_next_run(tmp_path: Path) -> None:
    for k, target, _ in every_point(signal.SIGKILL, fresh(tmp_path, git=True)):
        assert_neighbours_untouched(target)
        found = tree(target)
        assert found.pop(".git/HEAD") == b"ref"
        repo = {path: content for path, content in found.items() if path[:8] != ".mihack-"}
        assert all(PLAN[path] == content for path, content in repo.items()), k
        if ".mihack.json" in repo:
            assert repo == PLAN, k  # the entry that says 'whole' comes last
            continue
        write(PLAN, target)
        assert tree(target) == {**PLAN, ".git/HEAD": b"ref"}, k
        assert set(names(target)) == {".git", *(path.split("/")[0] for path in PLAN)}, k


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_folder_with_git_takes_everything_back(tmp_path: Path, number: int) -> None:
    for k, target, _ in every_point(number, fresh(tmp_path, git=True)):
        assert_neighbours_untouched(target)
        found = tree(target)
        assert found.pop(".git/HEAD") == b"ref"
        assert found in ({}, PLAN), k
        assert not [name for name in names(target) if name.startswith(".mihack-")], k
        if not found:
            assert names(target) == [".git"], k


def test_an_error_at_any_point_leaves_nothing(tmp_path: Path) -> None:
    """A full disk, at each file in turn."""
    real = Folder.write
    for k in range(len(PLAN) + 1):
        target = fresh(tmp_path / str(k))()
        count = 0

        def full(self: Folder, name: str, content: bytes, opened: list[int], k: int = k) -> None:
            nonlocal count
            count += 1
            if count > k:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(self, name, content, opened)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Folder, "write", full)
            with pytest.raises(MihackError, match="no room to write"):
                write(PLAN, target)
        assert names(target.parent) == ["mine"], k


def test_a_file_too_large_for_the_disk(tmp_path: Path) -> None:
    """The kernel itself refuses, in the middle of a file."""
    target = fresh(tmp_path)()

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        write(PLAN, target)

    assert os.WEXITSTATUS(in_child(work)) == 3
    assert names(target.parent) == ["mine"]


@pytest.mark.parametrize("pages", [1, 2, 3, 4, 6, 8])
def test_a_disk_that_is_really_full(tmp_path: Path, pages: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        with pytest.raises(MihackError) as caught:
            write({**PLAN, "big": b"x" * 40_000}, disk / "repo")
        assert "no room" in caught.value.message
        assert names(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("git", [False, True])
def test_of_several_at_once_one_wins_and_the_others_say_so(tmp_path: Path, git: bool) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(15):
        target = fresh(tmp_path / str(turn), git=git)()
        barrier = context.Barrier(3)
        plans = [{**PLAN, "README.md": f"{i}\n".encode(), f"only{i}": b"x"} for i in range(3)]

        def work(plan: dict[str, bytes], barrier=barrier, target: Path = target) -> None:  # type: ignore[no-untyped-def]
            def go() -> None:
                barrier.wait()
                write(plan, target)

            os._exit(0) if in_child(go) == 0 else os._exit(3)

        racers = [context.Process(target=work, args=(plan,)) for plan in plans]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        codes = sorted(racer.exitcode or 0 for racer in racers)
        found = {p: c for p, c in tree(target).items() if p != ".git/HEAD"} if target.exists() else {}
        if git:  # entries move one by one: each may meet another's, and then takes its own back
            assert codes in ([0, 3, 3], [3, 3, 3])
            assert found in ([*plans] if codes[0] == 0 else [{}])
        else:
            assert codes == [0, 3, 3]
            assert found in plans
        assert names(target.parent) == ["mine", "repo"]
        assert not [name for name in names(target) if name.startswith(".mihack-")]


def refused(target: Path, message: str) -> MihackError:
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(MihackError, match=message) as caught:
        write(PLAN, target)
    assert sorted(target.parent.rglob("*")) == before
    return caught.value


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    target = fresh(tmp_path)()
    target.mkdir()
    (target / "thesis.tex").write_text("years")
    assert "thesis.tex" in refused(target, "not empty").message
    refused(target.parent / "mine" / "notes.txt", "no folder")
    refused(target.parent / "no" / "such" / "place", "there is no folder")
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    link = target.parent / "link"
    link.symlink_to(elsewhere)
    refused(link, "a symlink")
    assert list(elsewhere.iterdir()) == []
    link.unlink()
    link.symlink_to(target.parent / "nowhere")
    refused(link, "a symlink")


def test_a_folder_with_git_and_more_is_refused(tmp_path: Path) -> None:
    target = fresh(tmp_path, git=True)()
    (target / "code.py").write_text("mine")
    refused(target, "not empty")


def test_a_file_that_appears_during_a_fill_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fresh(tmp_path, git=True)()
    real = stage.build

    def build(*a: object, **k: object) -> None:
        real(*a, **k)  # type: ignore[arg-type]
        (target / "notebook.ipynb").write_text("mine")

    monkeypatch.setattr(stage, "build", build)
    with pytest.raises(MihackError, match="in the meantime"):
        write(PLAN, target)
    assert tree(target) == {".git/HEAD": b"ref", "notebook.ipynb": b"mine"}


def test_a_target_that_appears_meanwhile_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("folder", "file", "symlink"):
        target = fresh(tmp_path / kind)()
        real = stage.build

        def build(*a: object, target: Path = target, kind: str = kind, real=real, **k: object) -> None:  # type: ignore[no-untyped-def]
            real(*a, **k)
            if kind == "folder":
                target.mkdir()
                (target / "mine").write_text("first")
            elif kind == "file":
                target.write_text("first")
            else:
                target.symlink_to(target.parent / "mine")

        monkeypatch.setattr(stage, "build", build)
        with pytest.raises(MihackError, match="in the meantime"):
            write(PLAN, target)
        monkeypatch.setattr(stage, "build", real)
        assert names(target.parent) == ["mine", "repo"]
        assert tree(target.parent / "mine") == {"notes.txt": b"keep"}
        if kind == "folder":
            assert tree(target) == {"mine": b"first"}


def test_a_parent_swapped_for_a_symlink_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fresh(tmp_path)()
    trap = tmp_path / "trap"
    trap.mkdir()
    moved = tmp_path / "moved"
    real = stage.build

    def build(*a: object, **k: object) -> None:
        real(*a, **k)  # type: ignore[arg-type]
        target.parent.rename(moved)
        target.parent.symlink_to(trap)

    monkeypatch.setattr(stage, "build", build)
    with pytest.raises(MihackError, match="was replaced"):
        write(PLAN, target)
    assert names(trap) == []
    assert names(moved) == ["mine"]


def test_a_parent_reached_through_the_user_s_own_symlink_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(PLAN, tmp_path / "link" / "repo")
    assert tree(tmp_path / "real" / "repo") == PLAN


def test_the_current_folder_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = here.stat().st_ino
    for place in (Path(), here):
        write(PLAN, place)
        assert tree(here) == PLAN
        assert Path("README.md").exists()
        assert here.stat().st_ino == before
        assert names(tmp_path) == ["here"]
        for path in sorted(here.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_modes_are_those_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(PLAN, tmp_path / "repo")
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "repo").rglob("*.*")}
    assert modes == {0o640, 0o750}
    assert stat.S_IMODE((tmp_path / "repo").stat().st_mode) == 0o750


def test_an_empty_folder_keeps_its_mode(tmp_path: Path) -> None:
    target = fresh(tmp_path, empty=True)()
    target.chmod(0o700)
    write(PLAN, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


def test_the_root_is_refused() -> None:
    with pytest.raises(MihackError, match="root"):
        locate(Path("/"))


# What an earlier run left is removed only if it is provably ours and its process is gone.


def leftover(parent: Path) -> Path:
    """The stage of a run that was killed in the middle of its files."""
    status = in_child(stopping_at(12, signal.SIGKILL, parent / "killed"))
    assert os.WIFSIGNALED(status)
    (left,) = [path for path in parent.iterdir() if path.name.startswith(".mihack-")]
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    assert (left / "making").exists()
    return left


def sweep(parent: Path) -> list[str]:
    with Folder.open(parent) as folder:
        return stage.sweep(folder)


def test_a_stale_stage_is_removed(tmp_path: Path) -> None:
    left = leftover(tmp_path)
    assert sweep(tmp_path) == [left.name]
    assert names(tmp_path) == []


def change_marker(left: Path, **changes: object) -> None:
    marker = json.loads((left / "stage.json").read_text())
    (left / "stage.json").write_text(json.dumps({**marker, **changes}))


def test_a_stage_whose_process_lives_stays(tmp_path: Path) -> None:
    left = leftover(tmp_path)
    change_marker(left, pid=os.getpid(), start=stage.process_start(os.getpid()))
    assert sweep(tmp_path) == []
    assert (left / "making").exists()


def test_a_stage_whose_process_number_was_given_to_another_goes(tmp_path: Path) -> None:
    if not stage.process_start(os.getpid()):
        pytest.skip("this system does not say when a process began")
    left = leftover(tmp_path)
    change_marker(left, pid=os.getpid(), start="1")
    assert sweep(tmp_path) == [left.name]


def test_a_stage_of_another_machine_stays(tmp_path: Path) -> None:
    left = leftover(tmp_path)
    change_marker(left, where="elsewhere")
    assert sweep(tmp_path) == []
    assert left.exists()


def test_a_stage_with_a_broken_marker_stays(tmp_path: Path) -> None:
    left = leftover(tmp_path)
    (left / "stage.json").write_text("not json")
    assert sweep(tmp_path) == []
    assert left.exists()


def test_what_somebody_put_into_a_stage_stays(tmp_path: Path) -> None:
    left = leftover(tmp_path)
    (left / "making" / "thesis.tex").write_text("years")
    assert sweep(tmp_path) == []
    assert (left / "making" / "thesis.tex").read_text() == "years"


def test_names_like_ours_are_not_enough(tmp_path: Path) -> None:
    name = f".mihack-{2**22 + 1}-0123456789ab"
    (tmp_path / ".mihack-notes").mkdir()
    (tmp_path / ".mihack-1-xyz").mkdir()
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    assert sweep(tmp_path) == []
    (folder / "mine.txt").unlink()
    folder.rmdir()
    folder.write_text("a file")
    assert sweep(tmp_path) == []
    folder.unlink()
    folder.symlink_to(tmp_path / ".mihack-notes")
    assert sweep(tmp_path) == []
    assert folder.is_symlink()


def test_a_repo_that_was_edited_after_a_killed_fill_keeps_the_edits(tmp_path: Path) -> None:
    """A fill killed half-way; the user edits a file; the next run takes back only what is as made."""
    for k in range(500):
        target = fresh(tmp_path / str(k), git=True)()
        in_child(stopping_at(k, signal.SIGKILL, target))
        if (target / "README.md").exists() and not (target / ".mihack.json").exists():
            break
    else:
        pytest.fail("no run was killed between README.md and .mihack.json")
    (target / "README.md").write_text("my edit")
    with pytest.raises(MihackError, match=r"README\.md"):
        write(PLAN, target)
    assert tree(target) == {".git/HEAD": b"ref", "README.md": b"my edit"}


def test_a_real_kill_of_the_real_command(tmp_path: Path) -> None:
    """No hook here: `new` in its own process, killed by the clock."""
    code = (
        "import pathlib, sys; sys.path[:0] = sys.argv[2:]\n"
        "import baking; from mihack.catalog import index; from mihack.cli import main\n"
        "from mihack.scaffold import experiment, plan\n"
        "index.load = lambda *a, **k: baking.index(baking.problem())\n"
        "experiment.experiment_path = lambda *a: pathlib.Path(sys.argv[2], 'count.py')\n"
        "plan.check_gpu = lambda: b''\n"
        "main(['new', '9.1', sys.argv[1]])"
    )
    (tmp_path / "tests").mkdir()
    here = Path(__file__).parent
    (tmp_path / "tests" / "baking.py").write_text((here / "baking.py").read_text())
    (tmp_path / "tests" / "count.py").write_text(baking.SCRIPT)
    root = str(here.parent)
    command = [sys.executable, "-c", code]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, str(tmp_path / "whole"), str(tmp_path / "tests"), root], capture_output=True
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    whole = tree(tmp_path / "whole")
    outcomes = set()
    for part in range(12):
        target = tmp_path / f"repo{part}"
        process = subprocess.Popen(
            [*command, str(target), str(tmp_path / "tests"), root],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * (0.4 + 0.6 * part / 12))
        process.kill()
        process.wait()
        outcomes.add(target.exists())
        assert not target.exists() or tree(target) == whole
    write(PLAN, tmp_path / "last")
    assert not [name for name in names(tmp_path) if name.startswith(".mihack-")]
    assert False in outcomes
