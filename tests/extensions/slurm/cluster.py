"""A real Slurm cluster for tests: controller, REST API and two nodes on this machine.

Each node has its own network, process and host name namespaces, so that it can crash or lose its
network like a machine. All share the file system.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from tests.polling import eventually

USER = "ecolink"
"""User of the jobs: a second name of root, which slurmrestd refuses."""

NODES = ("n1", "n2")
GPUS = 2
"""Usual number of GPUs of each node, of gres type cpu."""

PARTITION, URGENT = "train", "urgent"
"""Jobs of the second partition preempt those of the first."""

SLURMD_PORT, SRUN_PORTS = 17818, "17900-17999"

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmrestd", "scontrol", "ip", "unshare", "setpriv")

CONFIG = """
ClusterName=ecolink
SlurmctldHost=controller({host})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={root}/jwt.key
CredType=auth/munge
SlurmctldPort={port}
SlurmdPort={slurmd_port}
SrunPortRange={srun_ports}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=60
"""


def missing() -> str | None:
    """Return the reason why no cluster can run here, or None."""
    lacking = [each for each in PROGRAMS if shutil.which(each, path=_PATH) is None]
    if lacking:
        return (
            f"Slurm needs {', '.join(lacking)}. On Debian, install slurmctld slurmd slurmrestd "
            "slurm-wlm-jwt-plugin munge."
        )
    return None if os.geteuid() == 0 else "The namespaces of Slurm nodes need root."


_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


class SlurmCluster:
    """The processes of a cluster below `root`, which needs a short path."""

    def __init__(self, root: Path, *, own_processes: bool = True, gpus: int = GPUS) -> None:
        """With `own_processes` false, nodes share the process IDs of this machine.

        `gpus` is the number of GPUs of each node.
        """
        self.root = root
        self.gpus = gpus
        self.own_processes = own_processes
        self.directory = root / "pods"
        self.token_file = root / "token"
        self._network = f"10.213.{os.getpid() % 250}"
        self._network_name = f"eco{os.getpid()}"
        self._switch = f"{self._network_name}switch"
        self.host = f"{self._network}.1"
        self._rest_port = free_port()
        self.url = f"http://127.0.0.1:{self._rest_port}"
        self._environment = os.environ | {
            "SLURM_CONF": str(root / "slurm.conf"),
            "PATH": _PATH,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything, and wait until both nodes are idle."""
        self._write_files()
        self._make_network()
        root = self.root
        self._start(
            *("munged", "munged", "--foreground", "--force", f"--key-file={root / 'munge.key'}"),
            *(f"--socket={root / 'munge.socket'}", f"--pid-file={root / 'munge.pid'}"),
            *(f"--log-file={root / 'munge.log'}", f"--seed-file={root / 'munge.seed'}"),
        )
        eventually((root / "munge.socket").exists)
        self.start_controller()
        for index, node in enumerate(NODES):
            self._connect(node, index)
            self.boot(node)
        self.renew_token()
        self.start_rest()
        eventually(lambda: set(map(tuple, self.node_states().values())) == {("IDLE",)})

    def stop(self) -> None:
        """Kill everything, and delete the networks."""
        for node in NODES:
            self.crash(node)
        for name in list(self._processes):
            self._kill(name)
        for node in NODES:
            self._run("ip", "netns", "delete", f"{self._network_name}{node}", check=False)
        self._run("ip", "link", "delete", self._network_name, check=False)
        self._run("ip", "netns", "delete", self._switch, check=False)

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._start("controller", *self._inside("controller", "slurmctld", "-D"), mounts=True)

    def stop_controller(self) -> None:
        """Kill slurmctld."""
        self._kill("controller")

    def start_rest(self) -> None:
        """Start slurmrestd, and wait until it answers."""
        plain = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
        # Without slurmdbd, slurmrestd must not load the plugin of its API.
        serve = ("slurmrestd", "-s", "slurmctld", "-a", "rest_auth/jwt", self.url[len("http://") :])
        inside = self._inside(None, *plain, "env", "SLURM_JWT=daemon", *serve)
        self._start("rest", *inside, mounts=True)
        eventually(lambda: self._answers("/ping/"))

    def stop_rest(self) -> None:
        """Kill slurmrestd."""
        self._kill("rest")

    def boot(self, node: str) -> None:
        """Start the slurmd of a node."""
        network = ("ip", "netns", "exec", f"{self._network_name}{node}")
        own = ("--pid", "--fork", "--kill-child", "--mount-proc") if self.own_processes else ()
        inside = self._inside(node, "slurmd", "-D", "-N", node)
        self._start(node, *network, "unshare", "--uts", "--mount", *own, *inside)

    def crash(self, node: str) -> None:
        """Kill all processes of a node, as a power failure does."""
        self._kill(node)
        space = f"{self._network_name}{node}"
        while left := self._run("ip", "netns", "pids", space, check=False).split():
            for process_id in map(int, left):
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            time.sleep(0.01)

    def unplug(self, node: str) -> None:
        """Disconnect a node from the network. Its processes continue."""
        self._run("ip", "-n", self._switch, "link", "set", node, "down")

    def plug(self, node: str) -> None:
        """Connect a node again."""
        self._run("ip", "-n", self._switch, "link", "set", node, "up")

    def scontrol(self, *arguments: str) -> str:
        """Run scontrol as the user of the jobs. Return its output."""
        command = self._inside(None, "scontrol", *arguments)
        return self._run("unshare", "--mount", *command)

    def renew_token(self, seconds: int = 3600) -> None:
        """Write a token of the jobs' user."""
        token = self.scontrol("token", f"username={USER}", f"lifespan={seconds}")
        self.token_file.write_text(token)
        self.token_file.chmod(0o600)

    def ask(self, path: str) -> httpx.Response:
        """GET a path of the API."""
        token = self.token_file.read_text().strip().removeprefix("SLURM_JWT=")
        headers = {"X-SLURM-USER-NAME": USER, "X-SLURM-USER-TOKEN": token}
        return httpx.get(f"{self.url}/slurm/v0.0.42{path}", headers=headers, timeout=30)

    def node_states(self) -> dict[str, list[str]]:
        """Return the states and flags of each node."""
        return {each["name"]: each["state"] for each in self.ask("/nodes/").json()["nodes"]}

    def _answers(self, path: str) -> bool:
        with suppress(httpx.HTTPError):
            return self.ask(path).is_success
        return False

    def _make_network(self) -> None:
        """Connect this machine to a switch in a namespace of its own, without a firewall."""
        name, switch = self._network_name, self._switch
        self._run("ip", "netns", "add", switch)
        self._run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        self._run("ip", "-n", switch, "link", "set", "bridge", "up")
        self._run(
            "ip", "link", "add", name, "type", "veth", "peer", "name", "host", "netns", switch
        )
        self._run("ip", "-n", switch, "link", "set", "host", "master", "bridge", "up")
        self._run("ip", "addr", "add", f"{self.host}/24", "dev", name)
        self._run("ip", "link", "set", name, "up")

    def _connect(self, node: str, index: int) -> None:
        space, switch = f"{self._network_name}{node}", self._switch
        address = f"{self._network}.{11 + index}/24"
        peer = ("type", "veth", "peer", "name", "eth0", "netns", space)
        self._run("ip", "netns", "add", space)
        self._run("ip", "-n", switch, "link", "add", node, *peer)
        self._run("ip", "-n", switch, "link", "set", node, "master", "bridge", "up")
        self._run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
        self._run("ip", "-n", space, "link", "set", "eth0", "up")
        self._run("ip", "-n", space, "link", "set", "lo", "up")

    def _write_files(self) -> None:
        for folder in ("state", "pods", *(f"spool-{node}" for node in NODES)):
            (self.root / folder).mkdir(parents=True)
        for key in ("munge.key", "jwt.key"):
            (self.root / key).write_bytes(os.urandom(1024))
            (self.root / key).chmod(0o600)
        for index in range(self.gpus):
            (self.root / f"gpu{index}").touch()  # Slurm ignores GPUs without a file
        passwd = Path("/etc/passwd").read_text()
        (self.root / "passwd").write_text(f"{passwd}{USER}:x:0:0::/tmp:/bin/sh\n")
        (self.root / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        files = f"{self.root}/gpu[0-{self.gpus - 1}]"
        names = ",".join(NODES)
        (self.root / "gres.conf").write_text(f"NodeName={names} Name=gpu Type=cpu File={files}\n")
        lines = [
            CONFIG.format(
                root=self.root,
                host=self.host,
                port=free_port(),
                slurmd_port=SLURMD_PORT,
                srun_ports=SRUN_PORTS,
            )
        ]
        for index, node in enumerate(NODES):
            address = f"{self._network}.{11 + index}"
            lines.append(
                f"NodeName={node} NodeAddr={address} CPUs={GPUS} RealMemory=2000 "
                f"Gres=gpu:cpu:{self.gpus} State=UNKNOWN"
            )
        lines.append(f"PartitionName={PARTITION} Nodes={names} Default=YES PriorityTier=1")
        lines.append(f"PartitionName={URGENT} Nodes={names} PriorityTier=10")
        (self.root / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _inside(self, host: str | None, *command: str) -> tuple[str, ...]:
        """Return a command of a shell that names the jobs' user, and first the host."""
        named = f"hostname {host}; " if host else ""
        mount = f"mount --bind {shlex.quote(str(self.root / 'passwd'))} /etc/passwd"
        return ("sh", "-c", f"{named}{mount} && exec {shlex.join(command)}")

    def _start(self, name: str, *command: str, mounts: bool = False) -> None:
        if mounts:
            command = ("unshare", "--mount", "--uts", *command)
        with (self.root / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        with suppress(ProcessLookupError):  # --kill-child kills the processes of a node
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environment, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def slurm_cluster(
    root: Path, *, own_processes: bool = True, gpus: int = GPUS
) -> Iterator[SlurmCluster]:
    """Run a cluster in a new folder, and end it."""
    cluster = SlurmCluster(root, own_processes=own_processes, gpus=gpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
