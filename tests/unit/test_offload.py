"""One card and much RAM: what fits, and the bound, against sums by hand and what owners report."""

import json
import shlex
from dataclasses import replace

import pytest

from dsv3.config import ModelConfig
from dsv3.lab.machines import pretend
from dsv3.paths import TINY_R1
from dsv3.plan import main
from dsv3.sizing import machine as here
from dsv3.sizing.gpus import find_gpu
from dsv3.sizing.needs import Workload
from dsv3.sizing.offload import (
    CARD,
    RAMS,
    Machine,
    bits,
    bound,
    files,
    find_file,
    offload,
    plans,
    reported,
    reports,
    text,
    this_machine,
    usual,
)

R1 = ModelConfig.load("config_671B.json")
ONE = find_gpu(CARD)


def planned(file="Q4_K_M", gpus=1, ram=512, bandwidth=None, cfg=R1, **work):
    machine = Machine(gpu=ONE if gpus else None, gpus=gpus, ram_gb=ram, ram_bandwidth_gb_s=bandwidth)
    return offload("R1", cfg, find_file(file), machine, Workload(**work))


@pytest.mark.parametrize("file", files(), ids=lambda file: file.name)
def test_bits_make_the_published_size(file):
    experts, rest = bits(file)
    assert planned(file.name).nbytes == pytest.approx(file.gib * 2**30, rel=1e-9)
    assert experts <= rest + 0.01


def test_the_experts_of_the_two_bit_file_have_the_bits_of_llama_cpps_format():
    assert bits(find_file("UD-Q2_K_XL"))[0] == pytest.approx(2.625, abs=0.002)  # 84 bytes for 256 weights
    assert bits(find_file("Q8_0"))[0] == pytest.approx(8.5, abs=0.01)  # 34 bytes for 32 weights


def test_decoding_is_bound_by_the_bytes_of_the_experts_that_a_token_reads():
    found = planned(gpus=0, ram=768, bandwidth=512, context=1)
    experts, rest = bits(find_file("Q4_K_M"))
    read = 8 * 58 * 3 * 7168 * 2048 * experts / 8 + (17_117_648_384 - 926_679_040) * rest / 8 + 70_272
    assert list(found.tokens_per_s.values()) == [pytest.approx(512e9 / read)]
    assert found.card == 0
    assert found.layers == 0


def test_a_card_takes_what_every_token_needs_then_layers_of_experts():
    one, two = planned(), planned(gpus=2)
    assert one.card < one.cards == ONE.nbytes
    assert two.layers > one.layers >= 1
    a_layer = (one.ram - two.ram) / (two.layers - one.layers)
    assert a_layer == pytest.approx(653_908_770_816 / 58 * bits(find_file("Q4_K_M"))[0] / 8, rel=0.01)
    assert all(two.tokens_per_s[name] > speed for name, speed in one.tokens_per_s.items())


def test_what_does_not_fit_is_said():
    assert planned(ram=512).fits
    assert not planned(ram=256).fits
    assert planned(ram=256).largest_context == 0
    assert not planned("Q8_0", ram=600).fits
    assert planned("UD-IQ1_S", ram=192).fits


def test_more_sequences_read_more_experts():
    speeds = [next(iter(planned(bandwidth=200, batch=n).tokens_per_s.values())) for n in (1, 4, 64)]
    assert speeds == sorted(speeds)
    assert speeds[1] < 4 * speeds[0]


@pytest.mark.parametrize("report", reports(), ids=lambda report: f"{report.file}-{report.tokens_per_s}")
def test_no_report_beats_its_bound(report):
    assert 0.2 < report.tokens_per_s / bound(report, R1) < 1
    assert report.source.startswith("https://")


def test_reports_stand_beside_their_bounds_and_only_where_the_model_is_as_large():
    assert [report for report, _ in reported(R1)] == list(reports())
    assert {report.file for report, _ in reported(R1, "Q8_0")} == {"Q8_0"}
    assert reported(ModelConfig.load("config_16B.json")) == []


def test_what_do_i_need_is_also_one_card_and_ram():
    found = usual("R1", R1, Workload())
    names = [file.name for file in files()]
    assert [p.machine.ram_gb for p in found] == list(RAMS)
    assert [names.index(p.file) for p in found] == sorted({names.index(p.file) for p in found}, reverse=True)
    for p in found:
        every = plans("R1", R1, p.machine, Workload())
        assert p == next(other for other in every if other.fits)
    assert usual("V2-Lite", ModelConfig.load("config_16B.json"), Workload()) == [], "the card alone holds it"


def test_this_machine(tmp_path):
    seen = pretend(tmp_path)
    laptop = this_machine(seen["laptop, 16 GB"])
    assert (laptop.gpu, laptop.gpus, laptop.ram_gb) == (None, 0, pytest.approx(16 * 2**30 / 1e9))
    geforce = this_machine(seen["2 x RTX 4090, proxy on"])
    assert (geforce.gpu, geforce.gpus) == (ONE, 2)
    assert geforce.ram_gb == pytest.approx(120 * 2**30 / 1e9), "what the container may use, not what there is"
    assert str(geforce) == "2 x RTX-4090, 128.8 GB of RAM"
    unknown = this_machine(here.Machine(root=tmp_path / "laptop", run=lambda _: "0, NVIDIA T4, 15360, 4, 7.5, 550.54"))
    assert str(unknown) == "no card, 17.18 GB of RAM"
    rows = [
        f"{i}, NVIDIA {name}, 24564, 4, 8.9, 550.54" for i, name in enumerate(("T4", *["GeForce RTX 4090"] * 2, "L20"))
    ]
    mixed = this_machine(here.Machine(root=tmp_path / "laptop", run=lambda _: "\n".join(rows)))
    assert str(mixed) == "2 x RTX-4090, 17.18 GB of RAM"


def test_the_kind_of_machine_is_one_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["DeepSeek-R1", "--gpu", "RTX-4090", "--gpus", "1", "--ram", "512"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    rows = said.split("reported elsewhere")[1].splitlines()[2:]
    assert rows[0].split()[:3] == ["8.73", f"{bound(reports()[0], R1):.1f}", "Q4_K_M"]
    assert [row.strip() for row in rows[1::2]] == [report.source for report in reports()]
    assert all(file.name in said for file in files())
    with pytest.raises(SystemExit) as stop:
        main(["DeepSeek-R1", "--ram", "64", "--ram-bandwidth", "80", "--precision", "iq1_s", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert stop.value.code == 1
    assert not found["fits"]
    assert list(found["tokens_per_s"]) == ["80 GB/s"]


def test_machines_with_ram_stand_below_the_gpus_where_nothing_else_was_asked(capsys):
    def said(*argv):
        with pytest.raises(SystemExit):
            main(["DeepSeek-R1", *argv])
        return capsys.readouterr().out

    head = "one card and much RAM"
    rows = said().split(head)[1].splitlines()[3:-1]
    assert [row.split()[2:5] for row in rows] == [[f"{CARD},", str(gb), "GB"] for gb in RAMS]
    assert len(said("--json").splitlines()) == 1
    for other in (["--precision", "fp8"], ["--gpu", "H20-96G"], ["--mtp"]):
        assert head not in said(*other)


# Two layers; the one with experts is larger than any GPU, and with 127 heads it is not cut.
UNCUT = {
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
    "num_attention_heads": 127,
    "num_key_value_heads": 127,
    "n_routed_experts": 8192,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def test_where_no_number_of_gpus_fits_a_machine_with_ram_may(capsys, tmp_path):
    """And the command that says more of it is one that does."""

    def said(*argv):
        with pytest.raises(SystemExit) as stop:
            main(list(argv))
        return stop.value.code, capsys.readouterr().out.splitlines()

    config = json.loads((TINY_R1 / "config.json").read_text()) | UNCUT
    (tmp_path / "my model").mkdir()
    file = tmp_path / "my model" / "config.json"
    file.write_text(json.dumps(config))
    code, lines = said(str(file), "--context", "2048", "--batch", "2")
    assert code == 0
    assert any(line.startswith("no number up to 64 fits: RTX-3090, ") for line in lines)
    asked = lines[-1].partition("owners report: ")[2]
    assert asked == f"dsv3 plan '{file}' --gpu {CARD} --ram 512 --context 2048 --batch 2"
    code, more = said(*shlex.split(asked)[2:])
    assert (code, more[0]) == (0, "config.json on 1 x RTX-4090, 512 GB of RAM, 2 sequences of 2,048 tokens")
    (row,) = [line.split() for line in more if line.startswith("Q8_0 ")]
    assert row[-3:] == lines[-2].split()[-3:]
    assert said(str(file), "--json") == (1, ["[]"])
    assert said("DeepSeek-R1")[1][-1].endswith(f"dsv3 plan DeepSeek-R1 --gpu {CARD} --ram {RAMS[-1]}")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--precision", "Q4_K_M"], "need --ram"),
        (["--ram-bandwidth", "100"], "need --ram"),
        (["--precision", "Q9"], "none of fp8"),
        (["--ram", "512", "--precision", "fp8"], "with --ram one of Q8_0"),
        (["--ram", "512", "--gpu", "RTX-4090", "--gpus", "2", "--tp", "2"], "--ram takes"),
        (["--ram", "-1"], "0 or more"),
        (["--ram", "512", "--gpus", "2"], "--gpus needs --gpu"),
    ],
)
def test_a_mistake_is_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["DeepSeek-R1", *flags])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_kind_of_file_is_found_as_it_is_called_or_refused():
    machine = Machine(gpu=None, gpus=0, ram_gb=512)
    (found,) = plans("R1", R1, machine, Workload(), "iq1_s")
    assert found.file == "UD-IQ1_S"
    with pytest.raises(ValueError, match="'nope': no kind of GGUF file; one of Q8_0, "):
        plans("R1", R1, machine, Workload(), "nope")


def test_a_model_without_experts_and_a_context_too_long_are_refused():
    with pytest.raises(ValueError, match="no routed experts"):
        planned(cfg=replace(R1, n_dense_layers=R1.n_layers))
    with pytest.raises(ValueError, match="--context 999999"):
        planned(context=999_999)


TABLE = """\
DeepSeek-R1 on 1 x RTX-4090, 512 GB of RAM, 2 sequences of 4,096 tokens

file             GB  GB on card  layers of   GB in        largest  tokens/s at most with RAM of
                        of 25.8    experts     RAM  fits  context                  204.8 GB/s
Q8_0            713        20.2    0 of 58     704    no        0                         8.8
Q4_K_M          404        12.8    1 of 58     396   yes   62,367                        15.7
UD-Q2_K_XL      227        14.4    3 of 58     212   yes   55,270                        27.2
UD-IQ2_XXS      196        14.4    3 of 58     184   yes   55,270                        30.8
UD-IQ1_M        170        14.4    4 of 58     155   yes   55,270                        35.4
UD-IQ1_S        141        14.4    5 of 58     126   yes   55,270                        41.8

"""
ELSEWHERE = """\
reported elsewhere, with DeepSeek-R1 or V3: tokens/s of one sequence
  reported   bound  file        machine
      7.52    13.1  Q8_0        Xeon 6980P, one of two sockets, 512 GB/s measured, no GPU; ik_llama.cpp
                                https://github.com/ikawrakow/ik_llama.cpp/pull/259"""


def test_the_table_as_people_read_it():
    cfg = replace(R1, max_seq_len=163_840)  # as the published files say
    machine = Machine(gpu=ONE, gpus=1, ram_gb=512, ram_bandwidth_gb_s=204.8)
    said = text(plans("DeepSeek-R1", cfg, machine, Workload(batch=2)), reported(cfg, "Q8_0"))
    table, _, below = said.partition("how it is counted")
    assert table == TABLE
    assert below.split("\n\n")[1] == ELSEWHERE
