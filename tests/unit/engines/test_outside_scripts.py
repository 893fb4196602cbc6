"""Words that would end a line, hide text or name no machine are refused, by the option's name."""

import pytest

from dsv3 import launch
from dsv3.engines import cluster
from dsv3.engines.options import Serve
from dsv3.engines.table import find

CHARACTERS = [
    "\n",
    "\r",
    "\0",
    "\x1b",
    "\t",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\udc80",
    "\uffff",
]
OPTIONS = ("model", "quantization", "host", "master_addr", "python", "api_key_env")


@pytest.mark.parametrize("character", CHARACTERS, ids=ascii)
def test_what_could_end_a_line_or_hide_text_is_refused_by_the_options_name(character):
    bad = f"x{character}touch PWN{character}"
    for option in OPTIONS:
        fields = {"model": "R1", "api_key_env": "K", "nnodes": 2, "tp": 2, "master_addr": "a"} | {option: bad}
        with pytest.raises(ValueError, match=f"^--{option.replace('_', '-')}\\b") as refused:
            Serve(**fields)
        assert refused.value.args[0].isprintable()
    good = {"hosts": ("a",), "gpus": 1, "ckpt_path": "x", "options": (), "folder": "/", "python": "python"}
    changes = [{"hosts": (bad,)}, {"ckpt_path": bad}, {"options": ("--x", bad)}, {"folder": bad}, {"python": bad}]
    for change in changes:
        with pytest.raises(
            ValueError, match="^(--hosts|--ckpt-path|after --|this folder's path|--python): "
        ) as refused:
            launch.Generation(**good | change)
        assert refused.value.args[0].isprintable()
    for change in ({"hosts": (bad,)}, {"folder": bad}):
        fields = {"engine": find("vllm"), "serve": Serve(model="x"), "hosts": ("a",), "gpus": 1, "folder": "/"} | change
        with pytest.raises(ValueError, match="^(--hosts|this folder's path): "):
            cluster.Cluster(**fields)


@pytest.mark.parametrize("text", ["a b", "a;b", "$(x)", "a'", "-oX", "::1%$(x)", "a/b", "::g", "", "é"])
def test_addresses_are_addresses(text):
    with pytest.raises(ValueError, match="^--host .*is not a host name or an address"):
        Serve(model="R1", api_key_env="K", host=text)
    with pytest.raises(ValueError, match="^--master-addr .*is not a host name or an address"):
        Serve(model="R1", nnodes=2, tp=2, master_addr=text)
    for good in ("gpu-01.x_y", "10.0.0.1", "::", "fe80::1%eth0", "::1"):
        Serve(model="R1", api_key_env="K", host=good, nnodes=2, tp=2, master_addr=good)


@pytest.mark.parametrize("name", cluster.OURS)
def test_the_keys_variable_is_none_of_the_scripts(name):
    with pytest.raises(ValueError, match=f"--api-key-env {name}: "):
        cluster.Cluster(engine=find("vllm"), serve=Serve(model="x", api_key_env=name), hosts=("a",), gpus=1, folder="/")
