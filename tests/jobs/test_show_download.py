"""The lesson's download from a hub that breaks off."""

import os

import pytest

from dsv3.download import download
from dsv3.hubs.transfer import Patience
from dsv3.lab.hub import MODEL, FakeHub, serve
from dsv3.paths import TINY_R1

FIRST = TINY_R1 / "model-00001-of-000005.safetensors"
SOON = Patience(tries=2, wait=0.05, longest=0.1)


def test_a_download_from_the_hub_goes_on_where_it_broke(tmp_path, monkeypatch):
    pytest.importorskip("modelscope", reason="modelscope is not installed (extra: download)")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    before = dict(os.environ)
    hub = FakeHub.of_folder(TINY_R1)
    hub.faults[FIRST.name] = ["cut"]
    with serve(hub):
        assert os.environ["MODELSCOPE_ENDPOINT"].startswith("http://127.0.0.1:")
        download(MODEL, tmp_path / "target", patience=SOON)
    assert dict(os.environ) == before
    whole, rest = [first for name, first in hub.asked if name == FIRST.name]
    assert whole == 0
    assert rest == FIRST.stat().st_size // 2
    assert all((tmp_path / "target" / f.name).read_bytes() == f.read_bytes() for f in TINY_R1.iterdir())
