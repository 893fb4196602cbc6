"""``torchrun`` with its own flags and its own engine, which says in one line what went wrong, and within 30 seconds.

Plain ``torchrun`` starts the same jobs. Here a wrong address, a port in use, or a node that never comes is found before
anything starts, and the ranks on other nodes hear what killed the one that died.
"""

import logging
import os
import signal
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .ranks.address import MOST_EACH, MOST_NODES, resolve
from .ranks.store import check_in, keys_of, open_store, wait_for
from .ranks.watch import JOB, RUNNING, Timeouts

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LEAVE_SECONDS = 4  # that ranks of a lost job have to end by themselves
STOP_SECONDS = 2  # from SIGTERM, which a process may put off, to SIGKILL


def main(argv: list[str]) -> None:
    """The command line."""
    debug = os.environ.get("DSV3_DEBUG") == "1"
    if not debug:  # torch's C++ side would print stack traces of errors that come as exceptions, too
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from torch.distributed import run

    if not debug:
        logging.disable(logging.CRITICAL)
    parser = run.get_args_parser()
    parser.prog = "dsv3 torchrun"
    # Ctrl-C is handled by Python, not by torchrun: the processes then get SIGTERM, which ends them at once.
    parser.set_defaults(shutdown_timeout=STOP_SECONDS, signals_to_handle="SIGTERM,SIGHUP,SIGQUIT")
    args = parser.parse_args(argv)
    timeouts = Timeouts.from_environment()
    check(parser, args)
    if not by_address(args):
        limits = f"join_timeout={timeouts.start:.0f},read_timeout={max(timeouts.start // 3, 1):.0f}"
        args.rdzv_conf = ",".join(filter(None, [limits, args.rdzv_conf]))
        if args.rdzv_endpoint:
            resolve(args.rdzv_endpoint.rpartition(":")[0] or args.rdzv_endpoint)
        start(args)
        return
    nodes = Nodes(args, timeouts)
    try:
        start(args)
    except SystemExit:  # ended by a signal, perhaps the one that ``_follow`` sends
        nodes.part(f"node {args.node_rank} was ended")
        if nodes.lost:
            raise ChildProcessError(nodes.lost) from None
        raise
    except KeyboardInterrupt:
        nodes.part(f"node {args.node_rank} was interrupted")
        raise
    except Exception as error:
        nodes.part(str(error))
        raise
    finally:
        nodes.over.set()


def check(parser: ArgumentParser, args: Namespace) -> None:
    """Flags that torchrun would answer with a traceback: wrong usage, exit code 2."""
    counts = args.nnodes.split(":")
    if len(counts) > 2 or not all(is_count(c, MOST_NODES) for c in counts):
        parser.error(f"--nnodes {args.nnodes:.40}: give the number of nodes, 1 to {MOST_NODES}")
    if not 0 <= args.node_rank < int(counts[-1]):
        parser.error(f"--node-rank {args.node_rank}: with --nnodes {args.nnodes} it is 0 to {int(counts[-1]) - 1}")
    if len(args.nnodes) > 10 or int(counts[-1]) > MOST_NODES:
        parser.error(f"--nnodes {args.nnodes:.40}: at most {MOST_NODES}")
    each = args.nproc_per_node
    if each not in ("cpu", "gpu", "xpu", "auto") and not is_count(each, MOST_EACH):
        parser.error(f"--nproc-per-node {each:.40}: give the number of processes, 1 to {MOST_EACH}, or gpu")
    if args.master_port is not None and not 0 < args.master_port < 2**16:
        parser.error(f"--master-port {args.master_port}: ports are 1 to 65535")


def is_count(text: str, most: int) -> bool:
    return text.isdecimal() and len(text) < 10 and 0 < int(text) <= most


def by_address(args: Namespace) -> bool:
    """Whether the nodes meet at ``--master-addr``, torchrun's static rendezvous."""
    one_node = args.nnodes.split(":")[-1] == "1" and args.master_port is None
    return args.rdzv_backend == "static" and not args.standalone and not args.rdzv_endpoint and not one_node


class Nodes:
    """All nodes of a job, at the store that node 0 holds; each follows there what becomes of the ranks.

    Raises:
        ValueError, OSError: the address or port is wrong, or a node is missing; says which.
    """

    def __init__(self, args: Namespace, timeouts: Timeouts):
        import torch.distributed as dist

        args.master_port = args.master_port or 29500
        patience = [item for item in args.rdzv_conf.split(",") if item.startswith("timeout=")]
        seconds = float(patience[-1].partition("=")[2]) if patience else timeouts.start
        args.rdzv_conf = ",".join(filter(None, [args.rdzv_conf, "" if patience else f"timeout={int(seconds) + 1}"]))
        self.node, self.size = args.node_rank, int(args.nnodes.split(":")[-1])
        self.beat, self.lost, self.over = timeouts.beat, "", threading.Event()
        stores = []
        for i in range(2):  # one for this thread, one for ``_follow``
            server = self.node == 0 and i == 0  # torchrun's own rendezvous uses the same store
            stores.append(open_store(args.master_addr, args.master_port, server, seconds))
        check_in(dist.PrefixStore("dsv3", stores[0]), "node", self.node, self.size, seconds)
        self.store, self.followed = (dist.PrefixStore(keys_of(args.max_restarts), store) for store in stores)
        self.store.compare_set(JOB, "", RUNNING)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        """Thread: once the job is lost, the ranks here end by themselves; those that cannot are ended."""
        while not self.lost and not self.over.wait(self.beat):
            try:
                job = self.followed.get(JOB).decode()
                self.lost = "" if job == RUNNING else job
            except RuntimeError:
                self.lost = "torchrun on node 0 is gone; its own output says why"
        if not self.over.wait(LEAVE_SECONDS):
            os.kill(os.getpid(), signal.SIGTERM)  # which torchrun's engine handles

    def part(self, why: str) -> None:
        """The job ends here, because of ``why``: the ranks on other nodes hear it before the store goes."""
        self.over.set()
        teller = threading.Thread(target=self._tell, args=(why,), daemon=True)
        teller.start()
        teller.join(STOP_SECONDS + 1)  # a store that does not answer must not hold up the end

    def _tell(self, why: str) -> None:
        try:
            self.store.compare_set(JOB, RUNNING, why)
            self.store.set(f"left/{self.node}", "")
            if self.node == 0:
                wait_for(self.store, [f"left/{i}" for i in range(self.size)], time.monotonic() + STOP_SECONDS)
        except RuntimeError:
            pass  # node 0, and the store with it, is gone already


def start(args: Namespace) -> None:
    """Run the job to its end.

    Raises:
        ChildProcessError: a process failed; says which rank of which node, and how.
        ConnectionError: the nodes lost each other.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousTimeoutError

    try:
        run.run(args)
    except ChildFailedError as error:
        codes = {f.exitcode for f in error.failures.values()}
        if 130 in codes and codes <= {130, -signal.SIGTERM}:
            raise KeyboardInterrupt from None
        raise ChildProcessError(describe(error.failures, args.node_rank)) from None
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except RendezvousTimeoutError:
        raise ConnectionError(f"not all of --nnodes {args.nnodes} nodes came in time") from None
    except (RuntimeError, RendezvousError) as error:
        raise ConnectionError(str(error.__cause__ or error).splitlines()[0]) from None


def describe(failures: "dict[int, ProcessFailure]", node: int) -> str:
    """The failure that explains the others, which torchrun ends by SIGTERM or, if they are stopped, by SIGKILL."""
    rank, failure = min(
        failures.items(),
        key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].exitcode < 0, item[1].timestamp),
    )
    who = f"rank {rank} (node {node}, process {failure.pid})"
    if failure.exitcode > 0:
        return f"{who} ended with exit code {failure.exitcode}; its output says why"
    name = signal.Signals(-failure.exitcode).name
    hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
    return f"{who} was killed by {name}{hint}"


if __name__ == "__main__":
    from .cli import run as run_verb

    run_verb(main)
