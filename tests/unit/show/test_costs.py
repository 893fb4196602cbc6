"""What errors cost, as a figure."""

from dsv3.show.costs import costs


def test_each_error_has_its_mark_and_its_number():
    (ax,) = costs({"free": 5, "dear": 1, "raises": None}, 5, "sums", "title").axes
    assert [text.get_text() for text in ax.texts] == ["5", "1", "refused"]
    assert [line.get_marker() for line in ax.lines[:3]] == ["o", "o", "x"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["free", "dear", "raises"]
