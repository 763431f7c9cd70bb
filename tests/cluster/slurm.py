"""A real SLURM cluster on this machine: four nodes that are one, on 127.0.0.1 alone.

Each node is a `slurmd` of its own name and port. They claim four processors each, whatever there
is; no cgroups, no accounting. Partition `low` can be preempted, and its jobs are queued again;
`high` preempts. A node can be a machine of its own to those who look at process ids: see `apart`.
"""

import contextlib
import os
import secrets
import signal
import socket
import stat
import subprocess
import time

import psutil

from .daemons import PATH, Daemon, free_ports, need, need_root

NODES, CPUS, GPUS = 4, 4, 2
COMMANDS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
"""What is needed, and the Debian package it is in."""

CONFIGURATION = """
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile={folder}/slurmctld.own.pid
SlurmdPidFile={folder}/slurmd-%n.own.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,bf_resolution=1,sched_interval=2,sched_min_interval=100000,\
batch_sched_delay=0
PriorityType=priority/basic
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SlurmdTimeout=20
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
CompleteWait=0
UnkillableStepTimeout=60
OverTimeLimit=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}
PartitionName=low  Nodes=ALL Default=YES PriorityTier=1  PreemptMode=REQUEUE DefaultTime=10 \
MaxTime=1440 GraceTime=0 State=UP
PartitionName=high Nodes=ALL Default=NO  PriorityTier=10 PreemptMode=OFF DefaultTime=10 \
MaxTime=1440 State=UP
"""

SACCT = """#!/bin/sh
# Without accounting: what submitit asks sacct, answered from what the controller remembers.
echo 'JobID|State|NodeList'
squeue --noheader --array --states=all --format='%i|%T|%N'
"""


def need_slurm():
    """Skip, or in CI fail, where SLURM is not installed or may not be started."""
    need(COMMANDS)
    need_root()


class Slurm:
    """The cluster, from `start` to `stop`.

    Args:
        folder: Empty; of a short name, since there are sockets in it.
        cpus: That each node claims.
        apart: Nodes with process ids of their own, as on another machine, and their host names.
    """

    def __init__(self, folder, *, cpus=CPUS, apart=None):
        self._folder = folder
        self._cpus = cpus
        self._apart = apart or {}
        self._daemons = []

    @property
    def environment(self):
        """Of a command that shall use this cluster: also `sacct` is answered from `squeue`."""
        path = os.pathsep.join([str(self._folder / "bin"), PATH])
        return {"SLURM_CONF": str(self._folder / "slurm.conf"), "PATH": path}

    def start(self):
        self._configure()
        folder, names = self._folder, [f"n{node}" for node in range(NODES)]
        try:
            munged = self._daemon(
                "munged",
                "munged",
                "--foreground",
                "--force",
                f"--socket={folder / 'munge.socket'}",
                f"--key-file={folder / 'munge.key'}",
                f"--log-file={folder / 'munged.log'}",
                f"--pid-file={folder / 'munged.own.pid'}",
                f"--seed-file={folder / 'munged.seed'}",
            )
            munged.wait_until((folder / "munge.socket").exists)
            controller = self._daemon("slurmctld", "slurmctld", "-D")
            controller.wait_until(lambda: "is UP" in self.ask("scontrol", "ping", check=False))
            for name in names:
                around = machine(self._apart[name]) if name in self._apart else ()
                self._daemon(f"slurmd-{name}", *around, "slurmd", "-D", "-N", name)
            controller.wait_until(lambda: self._idle() == NODES)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Cancel what runs, end the daemons, and what of the jobs outlived them."""
        if len(self._daemons) > 1:
            self.ask("scancel", "--user=root", check=False)
            deadline = time.monotonic() + 15
            while self.ask("squeue", "--noheader", check=False) and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            # What makes a machine does not hear SIGTERM; with it all of the machine ends.
            apart = daemon.name.removeprefix("slurmd-") in self._apart
            daemon.stop(signal.SIGKILL if apart else signal.SIGTERM)
        self._daemons.clear()
        for process in self._left_over():
            process.kill()

    def ask(self, *command, check=True):
        """What one of SLURM's commands prints."""
        done = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self):
        """State, reason and node of every job that the controller knows, by its id."""
        said = self.ask(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%P|%N"
        )
        rows = [line.split("|") for line in said.splitlines()]
        return {
            job: {"state": state, "reason": reason, "partition": partition, "node": node}
            for job, state, reason, partition, node in rows
        }

    def processes_of(self, node):
        """All processes of a node that is apart, its `slurmd` too."""
        (daemon,) = (one for one in self._daemons if one.name == f"slurmd-{node}")
        (first,) = psutil.Process(daemon.pid).children()
        there = os.readlink(f"/proc/{first.pid}/ns/pid")
        for process in psutil.process_iter():
            # One that has just ended is nowhere.
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == there:
                    yield process

    def _daemon(self, name, *command):
        environment = {"SLURM_CONF": self.environment["SLURM_CONF"]}
        daemon = Daemon(name, command, folder=self._folder, environment=environment)
        self._daemons.append(daemon)
        return daemon

    def _idle(self):
        said = self.ask("sinfo", "--noheader", "-N", "--partition=low", "--format=%t", check=False)
        return said.split().count("idle")

    def _configure(self):
        folder = self._folder
        folder.chmod(0o755)  # munged wants its socket's folder open to all
        for name in ("state", "dev", "bin", *(f"spool-n{node}" for node in range(NODES))):
            (folder / name).mkdir(exist_ok=True)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o600)

        port, *ports = free_ports(NODES + 1)
        nodes = "\n".join(
            f"NodeName=n{node} NodeAddr=127.0.0.1 Port={ports[node]} CPUs={self._cpus} "
            f"RealMemory=64000 Gres=gpu:a100:{GPUS} State=UNKNOWN"
            for node in range(NODES)
        )
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, port=port, folder=folder, nodes=nodes)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        lines = ["AutoDetect=off"]
        for gpu in range(GPUS):
            lines.append(f"Name=gpu Type=a100 File={self._device(gpu)} Flags=nvidia_gpu_env")
        (folder / "gres.conf").write_text("\n".join(lines) + "\n")
        (folder / "bin" / "sacct").write_text(SACCT)
        (folder / "bin" / "sacct").chmod(0o755)

    def _device(self, gpu):
        """A GPU's file: only a device is counted, so it is another /dev/null."""
        path = self._folder / "dev" / f"nvidia{gpu}"
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:  # a container may forbid it
            return ("/dev/null", "/dev/zero")[gpu]
        return path

    def _left_over(self):
        """Processes of jobs, and SLURM's own about them: known by the cluster they are of."""
        ours = self.environment["SLURM_CONF"]
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                step = process.name() == "slurmstepd" or "SLURM_JOB_ID" in environment
            except psutil.Error:
                continue
            if environment.get("SLURM_CONF") == ours and step and process.pid != os.getpid():
                yield process


def machine(host):
    """Words before a command that run it with process ids and a host name of its own."""
    words = ["unshare", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child"]
    return [*words, "sh", "-c", 'hostname "$0" && exec "$@"', host]


def wait_for(happened, *, timeout_s, why):
    """What `happened` gives, once it gives something."""
    deadline = time.monotonic() + timeout_s
    while not (found := happened()):
        assert time.monotonic() < deadline, f"{why}: not within {timeout_s} s"
        time.sleep(0.3)
    return found
