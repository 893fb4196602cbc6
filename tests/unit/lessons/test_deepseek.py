from dsv3.lessons import deepseek


def test_without_a_clone_there_is_a_permanent_link(monkeypatch, tmp_path):
    monkeypatch.setenv("DSV3_DEEPSEEK", str(tmp_path))
    said = deepseek.passage("model.py", 785, 791)
    assert said.startswith(f"{deepseek.REPOSITORY}/blob/{deepseek.COMMIT}/inference/model.py#L785-L791\n")


def test_a_clone_shows_numbered_lines_and_another_version_is_told(monkeypatch, tmp_path):
    import hashlib

    monkeypatch.setenv("DSV3_DEEPSEEK", str(tmp_path))
    (tmp_path / "inference").mkdir()
    text = b"one\ntwo\n    three\nfour\n"
    (tmp_path / "inference" / "model.py").write_bytes(text)
    assert "another version" in deepseek.passage("model.py", 2, 3)
    monkeypatch.setitem(deepseek.KNOWN, "model.py", hashlib.sha256(text).hexdigest()[:16])
    assert deepseek.passage("model.py", 2, 3) == "inference/model.py\n   2  two\n   3      three"
