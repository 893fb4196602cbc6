"""Scripts that start an engine on several machines: over ssh, in Slurm, and in Kubernetes as a LeaderWorkerSet."""

import json
import re
import secrets
import shlex
import textwrap
from dataclasses import dataclass, replace

from .. import outside
from ..ranks.address import MOST_EACH, MOST_NODES
from .checkpoints import is_id
from .command import Command, Engine, comment
from .options import Serve

# Stands in a command for the address of node 0 until a script puts the shell's word there; nothing in it is quoted, and
# no option has the same text.
ADDRESS = f"node0-{secrets.token_hex(16)}"
SECRET = "dsv3"  # Kubernetes' Secret with the API key, as its entry api-key
OURS = ("host", "node", "MASTER_ADDR")  # variables of the scripts


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """An engine on several machines.

    Attributes:
        serve: options of node 0, without the nodes.
        hosts: the first one is node 0, and answers requests.
        gpus: of each host.
        folder: where they run it; the same path on every host.

    Raises:
        ValueError: the hosts' GPUs are not as many as the split says, or a name that no script can hold.
    """

    engine: Engine
    serve: Serve
    hosts: tuple[str, ...]
    gpus: int
    folder: str

    def __post_init__(self) -> None:
        check_hosts(self.hosts, self.gpus)
        outside.word("this folder's path", self.folder)
        if self.serve.api_key_env in OURS:
            raise ValueError(f"--api-key-env {self.serve.api_key_env}: the script has a variable of this name")
        asked, have = self.serve.gpus, len(self.hosts) * self.gpus
        if asked != have:
            split = f"--tp {self.serve.tp} x --pp {self.serve.pp} x --dp {self.serve.dp}"
            raise ValueError(f"{split} are {asked} GPUs, but hosts x GPUs are {have}")

    @property
    def port(self) -> int:
        return self.serve.port or self.engine.port

    @property
    def placed(self) -> Serve:
        """The options of node 0, with the nodes."""
        nodes = len(self.hosts)
        return replace(self.serve, nnodes=nodes, master_addr=ADDRESS) if nodes > 1 else self.serve

    def scripts(self, address: str) -> list[str]:
        """A shell script for each node; ``address`` is the shell's word for node 0."""
        places = [replace(self.placed, node_rank=i) for i in range(len(self.hosts))]
        waits = self.engine.spread == "ray"
        built = [_script(self.engine.build(place), waits and place.node_rank > 0) for place in places]
        return [text.replace(ADDRESS, address) for text in built]

    def mpi(self, launcher: str) -> str:
        """The script for an engine whose ranks MPI starts; ``launcher`` does it."""
        command = self.engine.build(self.placed)
        return command.preparation() + command.line(before=launcher + " ")


def check_hosts(hosts: tuple[str, ...], gpus: int) -> tuple[str, ...]:
    """``hosts``, if they are names, each of another host, with a GPU at least.

    Raises:
        ValueError: they are not.
    """
    if len(hosts) > MOST_NODES:
        raise ValueError(f"--hosts: {len(hosts)} of them; {MOST_NODES} are the most")
    for host in hosts:
        if not re.fullmatch(r"(\w[\w.-]*@)?[A-Za-z0-9][\w.-]*", host, re.ASCII):
            shown = host[: outside.LONGEST]
            raise ValueError(f"--hosts: {shown!r} is not a host name; give them as gpu01,gpu02")
    if len(set(hosts)) < len(hosts):
        raise ValueError("--hosts: a host is named twice")
    if not 1 <= gpus <= MOST_EACH:
        raise ValueError(f"--gpus-per-host {gpus}: must be 1 or more, {MOST_EACH} at most")
    return hosts


def _script(command: Command, joins: bool) -> str:
    """The lines of one node; ``joins``: it may be there before the node that it joins, and tries for five minutes."""
    if joins:
        return f"until {command.line()}; do [ $SECONDS -lt 300 ] || exit 1; sleep 2; done"
    if not command.after:
        return command.preparation() + command.line(before="exec ")
    undo = shlex.join(command.after)
    return f"trap {shlex.quote(undo)} EXIT\n{command.preparation()}{command.line()}"


def _title(job: Cluster) -> str:
    return f"{job.engine.title} {job.engine.version} on {len(job.hosts)} host(s) of {job.gpus} GPU(s)"


def _needs_key(job: Cluster) -> str:
    """Lines that end the script before it starts anything: without a key, or with one that no request can carry."""
    name = job.serve.api_key_env
    if not name:
        return ""
    return f"""\
: "${{{name}:?not set}}"
[[ ${name} != *[^[:graph:]]* ]] || {{ echo "{name}: its value is no key: it has blanks or line ends" >&2; exit 1; }}
"""


# ------------------------------------------------------------------------------------------------ ssh


def ssh(job: Cluster) -> str:
    """A script to run where all hosts are reached by ssh without a password. Its end, Ctrl-C too, ends all of them."""
    master = job.hosts[0].rpartition("@")[2]
    if job.engine.spread == "mpi":
        ranks = ",".join(f"{host.rpartition('@')[2]}:{job.gpus}" for host in job.hosts)
        nodes = {job.hosts[0]: job.mpi(f"exec mpirun -H {ranks} -n {job.serve.gpus}")}
    else:
        nodes = dict(zip(job.hosts, job.scripts(master), strict=True))
    tunnel = f"; from elsewhere: ssh -L {job.port}:127.0.0.1:{job.port} {job.hosts[0]}" if job.serve.loopback else ""
    name = job.serve.api_key_env
    key = f"read -r {name}; export {name}" if name else "read -r _"
    return f"""\
#!/bin/bash
# {_title(job)}, by ssh. Needs the same folders and environments on every host.
{comment(f"The server listens at {job.serve.host}:{job.port} of {job.hosts[0]}{tunnel}.")}\
set -uo pipefail
trap 'kill $(jobs -p) 2> /dev/null' EXIT
{_needs_key(job)}
# On a host: the first line of the input is the key; when the input ends, so does the node's script with all it started.
read -r -d '' host << 'HOST'
{key}
exec 3<&0
set -m
bash -c "$1" < /dev/null 3<&- &
node=$!
{{ cat <&3; kill -- -$node; }} > /dev/null 2>&1 &
wait $node
HOST
# The input stays open as long as this script runs.
input() {{ printf '%s\\n' "$1"; while kill -0 $$ 2> /dev/null; do sleep 1; done; }}
quoted() {{ printf "'%s'" "${{1//\\'/\\'\\\\\\'\\'}}"; }}

{"".join(_login(job, host, script, i) for i, (host, script) in enumerate(nodes.items()))}\
# When one host has ended, the others are ended, too.
wait -n
"""


def _login(job: Cluster, host: str, script: str, number: int) -> str:
    key = f'"${job.serve.api_key_env}"' if job.serve.api_key_env and number == 0 else '""'
    return f"""\
read -r -d '' node << 'NODE'
set -e
cd {shlex.quote(job.folder)}
{script}
NODE
ssh -o BatchMode=yes {host} "bash -c $(quoted "$host") node{number} $(quoted "$node")" < <(input {key}) &

"""


# ------------------------------------------------------------------------------------------------ Slurm


def slurm(job: Cluster) -> str:
    """A script for sbatch."""
    if job.engine.spread == "mpi":
        run, tasks = job.mpi("srun --kill-on-bad-exit=1 --mpi=pmix"), job.gpus
    else:
        scripts, tasks = job.scripts('"$MASTER_ADDR"'), 1
        run = f"""\
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR

read -r -d '' node << 'NODE' || true
set -e
{_by_rank(scripts, "SLURM_NODEID")}
NODE
# One per node; a node that fails ends the job.
srun --kill-on-bad-exit=1 bash -c "$node\""""
    return f"""\
#!/bin/bash
# {_title(job)}: sbatch THIS_FILE
{comment(f"The server listens at {job.serve.host}:{job.port} of the first node.")}\
#SBATCH --job-name=dsv3-serve
#SBATCH --nodes={len(job.hosts)}
#SBATCH --nodelist={",".join(host.rpartition("@")[2] for host in job.hosts)}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-node={job.gpus}
#SBATCH --output=dsv3-serve-%j.log
set -euo pipefail
cd {shlex.quote(job.folder)}
{_needs_key(job)}
{run}
"""


def _by_rank(scripts: list[str], variable: str, first: int = 0) -> str:
    """A shell text that runs the script whose number is in ``variable``; they are counted from ``first``."""
    if len(scripts) == 1:
        return scripts[0]
    cases = "".join(f"{i})\n{script}\n;;\n" for i, script in enumerate(scripts, first))
    return f'case "${variable}" in\n{cases}esac'


# ------------------------------------------------------------------------------------------------ Kubernetes


def lws(job: Cluster) -> str:
    """A LeaderWorkerSet and its Service, as YAML for kubectl apply.

    Raises:
        ValueError: the pods could not be reached or have no key, or the engine cannot be started so.

    Source: kubernetes-sigs/lws, docs/examples/leaderworkerset and docs/examples/vllm (apiVersion v1).
    """
    engine, serve = job.engine, job.serve
    if engine.image is None:
        raise ValueError(
            f"{engine.title}: no manifest is known to work here (MPI, or another device plugin); --slurm is"
        )
    if len(job.hosts) < 2:
        raise ValueError("a LeaderWorkerSet is for 2 nodes or more; one is an ordinary Deployment")
    if not serve.api_key_env or serve.loopback:
        raise ValueError("pods are reached over the network: say --host 0.0.0.0 --api-key-env DSV3_API_KEY")
    if not is_id(serve.model) and not serve.model.startswith("/"):
        raise ValueError(f"--model {serve.model}: give an absolute path, the same on every node, or an id of a hub")
    leader, *workers = job.scripts('"$LWS_LEADER_ADDRESS"')
    name = f"dsv3-{engine.name}"
    return f"""\
# {_title(job)}: kubectl apply -f THIS_FILE
# Needs the LeaderWorkerSet controller, and the key that clients must send:
#   kubectl create secret generic {SECRET} --from-literal=api-key="${serve.api_key_env}"
# From your machine: kubectl port-forward service/{name} {job.port}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: {name}
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: {len(job.hosts)}
    restartPolicy: RecreateGroupOnPodRestart
    leaderTemplate:
{_pod(job, "leader", leader)}
    workerTemplate:
{_pod(job, "worker", _by_rank(workers, "LWS_WORKER_INDEX", first=1))}
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector:
    leaderworkerset.sigs.k8s.io/name: {name}
    role: leader
  ports:
    - name: http
      protocol: TCP
      port: {job.port}
      targetPort: {job.port}
"""


def _pod(job: Cluster, role: str, script: str) -> str:
    """A pod template, indented for its place. The worker needs no key: only the leader answers requests."""
    serving = f"""
            env:
              - name: {json.dumps(job.serve.api_key_env)}
                valueFrom:
                  secretKeyRef:
                    name: {SECRET}
                    key: api-key
            ports:
              - containerPort: {job.port}
            readinessProbe:
              httpGet:
                path: {job.engine.health}
                port: {job.port}
              periodSeconds: 10
              timeoutSeconds: 5"""
    path = json.dumps(job.serve.model, ensure_ascii=False)
    # Kubernetes puts the value of NAME where $(NAME) stands, and $ where $$ does.
    text = re.sub(r"\${2,}|\$(?=\()", lambda found: 2 * found[0], "set -e\n" + script)
    local = job.serve.model.startswith("/")
    mount = f"\n              - name: model\n                mountPath: {path}\n                readOnly: true"
    volume = (
        f"\n          - name: model\n            hostPath:\n              path: {path}\n              type: Directory"
    )
    return f"""\
      metadata:
        labels:
          role: {role}
      spec:
        containers:
          - name: {role}
            image: {job.engine.image}
            command: ["bash", "-c"]
            args:
              - |
{textwrap.indent(text, " " * 16)}{serving if role == "leader" else ""}
            resources:
              limits:
                nvidia.com/gpu: {json.dumps(str(job.gpus))}
            volumeMounts:
              - name: shm
                mountPath: /dev/shm{mount if local else ""}
        volumes:
          - name: shm
            emptyDir:
              medium: Memory{volume if local else ""}"""
