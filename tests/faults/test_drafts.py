"""A folder that takes its place whole: killed at any moment, two at once, what the dead left."""

import os
import socket
import time

import pytest

from data_prep.atomic import draft_of, folder_draft_of
from tests.forks import Forks

WAYS = pytest.mark.parametrize("how", ["in one step", "in two steps"])


def content_of(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def files(text):
    return dict.fromkeys("abc", text)


@pytest.mark.slow
@WAYS
def test_a_folder_is_the_old_or_the_new_after_every_kill(forks: Forks, tmp_path, how):
    place = tmp_path / "folder"
    forks.put(place, "old", how, cwd=tmp_path)
    count = len(forks.put(place, "old", how, cwd=tmp_path).events)
    seen, away = [], 0

    for number in range(count):
        text = f"text {number}"
        before = content_of(place)
        assert forks.put(place, text, how, cwd=tmp_path, kill_before=number).code == -9
        if not place.exists():
            away += 1
            # Killed again before it writes anything, the next one has put the old folder back.
            forks.put(place, text, how, cwd=tmp_path, kill_before=3)
        seen.append(content_of(place))
        assert seen[-1] in (before, files(text))

    assert files(f"text {count - 1}") in seen
    assert away == (how == "in two steps")
    assert forks.put(place, "last", how, cwd=tmp_path).code == 0
    assert content_of(place) == files("last")
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.slow
@WAYS
def test_of_two_at_once_one_wins_whole(forks: Forks, tmp_path, how):
    place = tmp_path / "folder"

    for _ in range(25):
        both = [("put", place, text, how) for text in ("one", "other")]
        done = forks.at_once(both, cwd=tmp_path)
        assert [each.code for each in done] == [0, 0], done
        # Neither gave up because the other was there: each has put its own in place.
        assert all({"os.rename", "exchange"} & {kind for kind, _ in each.events} for each in done)
        assert content_of(place) in (files("one"), files("other"))
        assert list(tmp_path.iterdir()) == [place]


def hidden(path, host, pid):
    return path.with_name(f".{path.name}.{host}.{pid}.draft")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_dead_processes_left_goes_and_what_may_be_written_stays(tmp_path, kind):
    path = tmp_path / "out"
    here, day_s = socket.gethostname(), 24 * 3600
    dead, alive = hidden(path, here, 2**22 + 1), hidden(path, here, os.getppid())
    elsewhere, silent = hidden(path, "elsewhere", 7), hidden(path, "elsewhere", 8)
    others = [tmp_path / ".output.elsewhere.8.draft", tmp_path / ".out.notes"]
    for each in (dead, alive, elsewhere, silent, *others):
        if kind == "file":
            each.write_text("half")
        else:
            each.mkdir()
            (each / "part").write_text("half")
    for each in (silent, silent / "part", *others):
        if each.exists():
            os.utime(each, (time.time() - 2 * day_s,) * 2)

    with draft_of(path) if kind == "file" else folder_draft_of(path) as draft:
        (draft if kind == "file" else draft / "part").write_text("whole")

    assert sorted(tmp_path.iterdir()) == sorted([path, alive, elsewhere, *others])


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to("scratch")

    for text in ("old", "new"):
        with folder_draft_of(tmp_path / "link", replace=True) as draft:
            (draft / "a").write_text(text)

    assert (tmp_path / "link").is_symlink()
    assert content_of(tmp_path / "scratch") == {"a": "new"}


def test_a_folder_that_is_not_to_be_replaced_stays(tmp_path):
    place = tmp_path / "folder"

    def late():
        with folder_draft_of(place) as draft:
            (draft / "a").write_text("late")
            place.mkdir()
            (place / "a").write_text("first")

    with pytest.raises(FileExistsError, match="folder"):
        late()

    assert content_of(place) == {"a": "first"}
    assert list(tmp_path.iterdir()) == [place]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: '\S*/out\.csv'$"),
        draft_of(tmp_path / "out.csv"),
    ):
        raise OSError(28, "full")
