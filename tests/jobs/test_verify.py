"""Lists of hashes, as ``sha256sum`` writes and reads them."""

import subprocess

import pytest

from dsv3.verify import check_list, hashes, main, write_manifest
from tests.unit.test_verify import flip


def test_a_list_of_hashes_is_checked(made, tmp_path):
    manifest = tmp_path / "SHA256SUMS"
    main([str(made), "--write-manifest", str(manifest)])
    # The system's own tool reads it.
    assert subprocess.run(["sha256sum", "--quiet", "-c", str(manifest)], cwd=made).returncode == 0
    assert check_list(made, manifest) == []
    first, second, *_ = sorted(made.glob("*.safetensors"))
    flip(first, 100)
    second.unlink()
    assert check_list(made, manifest) == [f"{first.name}: other content (sha256)", f"{second.name}: missing"]
    with pytest.raises(ValueError, match=r"out: .*other content .sha256., .*: missing"):
        main([str(made), "--manifest", str(manifest)])


@pytest.mark.parametrize(
    "change",
    [
        "capitals",
        "BOM",
        "./",
        "*",
        "CRLF",
        "blank lines",
        "another order",
        "a line twice",
        "the manifest in the folder",
    ],
)
def test_a_list_in_another_hand_is_read(change, made, tmp_path):
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "sub" / "deep" / "w.safetensors").write_bytes(b"x")
    (made / "a\\b\nc").write_bytes(b"odd")
    manifest = made / "SHA256SUMS" if change == "the manifest in the folder" else tmp_path / "SHA256SUMS"
    write_manifest(made, manifest)
    assert write_manifest(made, manifest) == len(hashes(made)) - (manifest.parent == made)
    assert subprocess.run(["sha256sum", "--quiet", "-c", str(manifest)], cwd=made).returncode == 0
    lines = manifest.read_text().splitlines()
    assert any(line.endswith("  sub/deep/w.safetensors") for line in lines)
    changed = {
        "capitals": [line[:65].upper() + line[65:] if line[0] != "\\" else line for line in lines],
        "BOM": ["\ufeff" + lines[0], *lines[1:]],
        "./": [line.replace("  ", "  ./", 1) for line in lines],
        "*": [line.replace("  ", " *", 1) for line in lines],
        "CRLF": [line + "\r" for line in lines],
        "blank lines": ["", *lines, "", " "],
        "another order": lines[::-1],
        "a line twice": [*lines, lines[0]],
    }.get(change, lines)
    manifest.write_text("\n".join(changed) + "\n", encoding="utf-8", newline="")
    assert check_list(made, manifest) == []
