"""Files of a hub by range requests, as lesson 02 asks for them."""

import io
import time

import pytest

from dsv3.checkpoint import read
from dsv3.lab.hub import MODEL, FakeHub
from dsv3.lab.remote import Remote, address, getter, within
from dsv3.lessons import Parts
from dsv3.lessons.transplant_02 import download
from dsv3.paths import TINY_R1

FIRST = TINY_R1 / "model-00001-of-000005.safetensors"


def test_a_header_and_one_tensor_are_read_by_ranges():
    hub = FakeHub.of_folder(TINY_R1)
    entries = {e.name: e for e in read.header(FIRST)}
    with hub.serving():
        file = Remote(address(MODEL, FIRST.name, hub.url))
        found = Parts("02").parts().header(file)
        name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
        file.seek(found[name][2])
        data = file.read(found[name][3] - found[name][2])
    assert found == {e.name: (e.dtype, e.shape, e.start, e.stop) for e in entries.values()}
    assert data == FIRST.read_bytes()[entries[name].start : entries[name].stop]
    assert file.nbytes == min(e.start for e in entries.values()) + len(data)


def test_a_server_without_ranges_and_one_that_says_no_are_errors():
    hub = FakeHub({"a": bytes(100)})
    hub.faults["a"] = ["flip", "503"]
    with hub.serving():
        file = Remote(address(MODEL, "a", hub.url))
        for words in ("status 200", "503"):
            with pytest.raises(OSError, match=words):
                file.read(5)
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0, io.SEEK_END)
        status, pieces = getter(address(MODEL, "a", hub.url))({"Range": "bytes=90-"})
        assert (status, b"".join(pieces)) == (206, bytes(10))


def test_waiting_ends():
    assert within(5, lambda: 7) == 7
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
    with pytest.raises(TimeoutError, match="0.1 s"):
        within(0.1, lambda: time.sleep(5))


def test_a_name_that_leads_out_is_refused_before_anything_is_fetched(tmp_path):
    hub = FakeHub({"config.json": b"{}"})
    hub.lies["config.json"] = {"name": "../config.json"}
    with hub.serving(), pytest.raises(ValueError, match="nothing was fetched"):
        download(Parts("02").parts(), hub.url, tmp_path)
    assert hub.asked == []
