"""Commands of ours, each in a process of its own that kills itself before one of its file events.

A server that has imported everything is forked for each command, which costs milliseconds where a
new process would import torch. Its own program is the end of this file.
"""

import errno
import hashlib
import importlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from data_prep import atomic

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link"}
"""Audit events of what changes a folder, beside an `open` for writing and our own `fsync`."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """Of its exit; -9 if it was killed."""
    said: str
    events: list
    """Kind and path of each file event, if it was not killed."""


class Forks:
    """The server, and what it is asked for."""

    def __init__(self):
        path = str(Path(__file__).parents[1])
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hpo(self, *words, **options):
        """Run the `hpo` command; see `at_once`."""
        return self.at_once([("hpo", *words)], **options)[0]

    def work(self, study, runs, *, stack=1, **options):
        """Be a worker of the study, so many trials at a time, until no trial waits."""
        return self.at_once([("work", study, runs, stack)], **options)[0]

    def at_once(
        self,
        commands,
        *,
        cwd,
        storage=None,
        user=None,
        environment=None,
        watch=None,
        commits=False,
        kill_before=None,
        fail_from=None,
        fault="",
        clock=(),
    ):
        """Run commands beside each other, each given as `hpo`, `work` or `put` and its words.

        Args:
            cwd: Their folder.
            storage: URL of the database, if another one than that in the runs.
            user: Whom they run as, if this process may choose.
            environment: Variables beside or in place of those of the tests.
            watch: The folder whose file events count, if another one.
            commits: Whether each transaction of a database that ends counts, too.
            kill_before: The number of the event before which the process kills itself.
            fail_from: The number of the event from which on each raises the `fault`, as `EDQUOT`.
            clock: By how many seconds the time of day is off, each for a twentieth of a second.
        """
        asked = {
            "commands": [list(map(str, one)) for one in commands],
            "cwd": str(cwd),
            "clock": list(clock),
            "storage": storage,
            "user": user if os.geteuid() == 0 else None,
            "environment": {name: str(value) for name, value in (environment or {}).items()},
            "events": {
                "watched": str(watch or cwd),
                "commits": commits,
                "kill_before": kill_before,
                "fail_from": fail_from,
                "fault": fault,
            },
        }
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return [Done(**told) for told in json.loads(self._server.stdout.readline())]

    def put(self, place, text, how, **options):
        """Put a folder with files of this text in its place."""
        return self.at_once([("put", place, text, how)], **options)[0]

    def stop(self):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


def spread(count, most):
    """Numbers from 0 to `count` - 1, all or `most` of them."""
    return sorted({round(k * (count - 1) / (most - 1)) for k in range(most)}) if count else []


def content_of(folder):
    """sha256 of each file below the folder, by name; the wall clock is in none of them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- the server


def _serve():
    _import()
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryDirectory(prefix="hpo-forks-") as folder:
            started = [
                _start(command, asked, Path(folder, str(number)))
                for number, command in enumerate(asked["commands"])
            ]
            told = [_ended(pid, answer) for pid, answer in started]
        print(json.dumps(told), flush=True)


def _start(command, asked, answer):
    answer.mkdir()
    answer.parent.chmod(0o711)
    answer.chmod(0o777)
    pid = os.fork()
    if not pid:
        _be(command, asked, answer)
    return pid, answer


def _ended(pid, answer):
    _, status = os.waitpid(pid, 0)
    events = answer / "events"
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": (answer / "said").read_text(),
        "events": json.loads(events.read_text()) if events.exists() else [],
    }


def _import():
    """Import and make what the commands would one by one."""
    modules = "alembic.command pandas matplotlib.backends.backend_agg onnx pydantic"
    modules += " torch._dynamo torch.onnx"
    modules += " hpo.cli hpo.pictures.corner hpo.emulator.draws hpo.emulator.export"
    modules += " hpo.execution.launch hpo.execution.trial data_prep.preparation.prepare"
    modules += " hpo.server.server hpo.server.backup encodings.idna encodings.ascii"
    modules += " sqlalchemy.dialects.postgresql.psycopg psycopg"
    for name in modules.split():
        importlib.import_module(name)
    from data_prep.untrusted import adapter
    from hpo.records import record
    from hpo.study import spec

    adapter(record.RunRecord)
    made = {"study": {"name": "s"}, "data": {"path": "."}, "space": {"hidden": 4}}
    with tempfile.TemporaryDirectory(prefix="hpo-forks-") as folder:
        _use_a_database(Path(folder), spec.parse(made, source=""))


def _use_a_database(runs, spec):
    """What SQLAlchemy and Optuna find out at their first use, each command would find out anew."""
    import optuna

    from hpo.storage.address import url_of
    from hpo.storage.open import open_storage
    from hpo.study import register, study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for _ in range(2):  # made, and opened as it is
        storage = open_storage(url_of(f"sqlite:///{runs}/hpo.db", runs))
        found = study.create_study(storage, spec, runs=runs, fingerprint="f")
        slots = study.slots_of(found, spec)
        slots.set_total(1)
        slots.look()
        register.listing(storage, None)
        storage.engine.dispose()
    optuna.logging.set_verbosity(optuna.logging.INFO)


def _be(command, asked, answer):
    """The forked process: run the command and end."""
    os.chdir(asked["cwd"])
    os.environ.pop("HPO_STORAGE", None)
    if asked["storage"]:
        os.environ["HPO_STORAGE"] = asked["storage"]
    os.environ.update(asked["environment"])
    said = os.open(answer / "said", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)
    if asked["user"]:
        other = pwd.getpwnam(asked["user"])
        os.setgroups([])
        os.setgid(other.pw_gid)
        os.setuid(other.pw_uid)
    if asked["clock"]:
        _jump(asked["clock"])
    events = _Events(**asked["events"])
    code = 1
    try:
        _run(*command)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    (answer / "events").write_text(json.dumps(events.seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _jump(offsets_s):
    """Set the time of day back and forth: of Python, and of the boot as the system tells it."""
    import psutil

    now, booted = time.time, psutil._psplatform.boot_time

    def off():
        return offsets_s[int(20 * time.monotonic()) % len(offsets_s)]

    time.time = lambda: now() + off()
    psutil._psplatform.boot_time = lambda: booted() + off()


def _run(kind, *words):
    if kind == "put":
        _put(*words)
    elif kind == "work":
        from hpo.execution.worker import work

        study, runs, stack = words
        work(study, runs, 1, 1, int(stack) if stack.isdecimal() else stack)
    else:
        from hpo.cli import main

        main(args=words, prog_name="hpo")


def _put(place, text, how):
    """Put a folder of three files in its place, in one step or, as on NFS, in two."""
    if how == "in two steps":

        def cannot(*_):
            raise NotImplementedError

        atomic._exchange = cannot
    with atomic.folder_draft_of(Path(place), replace=True) as made:
        for name in "abc":
            (made / name).write_text(text)


class _Events:
    """What is done to the files of a folder, and what happens to the process on the way."""

    def __init__(self, watched, commits, kill_before, fail_from, fault):
        self.watched = os.path.realpath(watched)
        self.seen = []
        self._kill_before = kill_before
        self._fail_from, self._fault = fail_from, fault
        fsync = os.fsync

        def counted(descriptor):
            self._add("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), torn=True)
            fsync(descriptor)

        os.fsync = counted
        exchange = atomic._exchange

        def counted_exchange(one, other):
            self._add("exchange", os.fspath(other))
            exchange(one, other)

        atomic._exchange = counted_exchange
        sys.addaudithook(self._audit)
        if commits:
            from sqlalchemy import Engine, event

            database = f"{self.watched}/database"
            event.listen(Engine, "commit", lambda _: self._add("commit", database))

    def _audit(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR):
                self._add(event, os.fsdecode(path), torn=bool(flags & os.O_TRUNC))
        elif event in WRITES:
            where = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
            folder = f"/proc/self/fd/{where}" if where != -1 else "."
            self._add(event, os.path.join(os.path.realpath(folder), os.fsdecode(arguments[0])))

    def _add(self, kind, path, *, torn=False):
        if self.watched is None or not os.path.abspath(path).startswith(self.watched + os.sep):
            return
        # What others left is removed first: that moves no moment of this process.
        place = os.path.relpath(path, self.watched)
        if atomic.DRAFT in place and f".{os.getpid()}{atomic.DRAFT}" not in place:
            return
        if self._kill_before == len(self.seen):
            self.watched = None
            if torn and os.path.exists(path):  # a write was cut off in its middle
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fail_from is not None and self._fail_from <= len(self.seen):
            if kind not in ("os.remove", "os.rmdir"):  # what makes room
                number = getattr(errno, self._fault)
                raise OSError(number, os.strerror(number))
        self.seen.append([kind, place])


if __name__ == "__main__":
    _serve()
