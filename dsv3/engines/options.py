"""What to serve, and how: ``Serve``, the same for every engine."""

import ipaddress
import re
from dataclasses import dataclass

from .. import outside


@dataclass(frozen=True, kw_only=True)
class Serve:
    """What an engine is asked for.

    Attributes:
        model: a Hugging Face folder, or the id of one on a hub.
        tp, pp, dp: tensor-parallel ranks, pipeline stages, data-parallel groups; their product is the number of GPUs.
        nnodes, node_rank, master_addr, master_port: of several machines, as torchrun names them.
        mtp: tokens that the MTP layer drafts at each step; 0: no speculative decoding.
        family: how the model talks, one of ``parsers.FAMILIES``; None: not known, so no parser.
        reasoning_parser: have the server send the thinking and the answer apart, if the family has a parser for it.
        tool_call_parser: likewise the calls of tools.
        remote_code: let the engine run Python files of the model's repository.
        quantization: the engine's name for it; None: as config.json says.
        context: tokens of prompt and answer together; None: as config.json says.
        port: None: the engine's own.
        api_key_env: the variable that holds the key that clients must send; its value never stands in a command.
        python: the interpreter of the engine's environment; None: what is on the PATH.
        cpu: no GPU: vLLM's build for CPUs, or llama.cpp with everything in RAM.
        threads: of the CPU, for the experts that stay in RAM; None: the engine's choice.
        numa: sockets of the machine, each with memory of its own.
        cpu_moe: of so many layers, from the first on, llama.cpp keeps the routed experts in RAM; None: of all.

    Raises:
        ValueError: options that no engine can follow.
    """

    model: str
    tp: int = 1
    pp: int = 1
    dp: int = 1
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int = 29500
    mtp: int = 0
    family: str | None = None
    reasoning_parser: bool = True
    tool_call_parser: bool = True
    remote_code: bool = False
    fp8_kv_cache: bool = False
    quantization: str | None = None
    context: int | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    api_key_env: str | None = None
    python: str | None = None
    cpu: bool = False
    threads: int | None = None
    numa: int = 1
    cpu_moe: int | None = None

    def __post_init__(self) -> None:
        if not self.model or self.model.startswith("-"):
            shown = outside.printable(self.model)
            raise ValueError(f"--model {shown!r}: give a folder, or an id such as deepseek-ai/DeepSeek-R1")
        for name in ("model", "quantization", "python"):
            outside.word(f"--{name}", getattr(self, name) or "")
        outside.host("--host", self.host)
        if self.master_addr is not None:
            outside.host("--master-addr", self.master_addr)
        for name in ("tp", "pp", "dp", "nnodes", "context", "threads", "numa"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value}: must be 1 or more")
        for option, count in (("--mtp", self.mtp), ("--n-cpu-moe", self.cpu_moe or 0)):
            if count < 0:
                raise ValueError(f"{option} {count}: must be 0 or more")
        if not 0 <= self.node_rank < self.nnodes:
            raise ValueError(f"--node-rank {self.node_rank}: must lie between 0 and --nnodes {self.nnodes} less one")
        if self.nnodes > 1 and not self.master_addr:
            raise ValueError(f"--nnodes {self.nnodes} needs --master-addr, the address of node 0")
        if self.gpus % self.nnodes:
            raise ValueError(f"{self.gpus} GPUs do not divide by --nnodes {self.nnodes}")
        for name in ("port", "master_port"):
            value = getattr(self, name)
            if value is not None:
                check_port(f"--{name.replace('_', '-')}", value)
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            raise ValueError("--api-key-env: give the name of a variable, not the key itself")
        if not self.loopback and not self.api_key_env:
            raise ValueError(
                f"--host {self.host} opens the server to the network, and without a key anyone there could use it: "
                "export DSV3_API_KEY=$(openssl rand -hex 24), and say --api-key-env DSV3_API_KEY"
            )

    @property
    def gpus(self) -> int:
        """Of all machines together."""
        return self.tp * self.pp * self.dp

    @property
    def local_gpus(self) -> int:
        """Of this machine."""
        return self.gpus // self.nnodes

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_port(option: str, port: int) -> None:
    """Whether ``port`` can be one.

    Raises:
        ValueError: no port has this number.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"{option} {port}: must lie between 1 and 65535")
