"""notebooks/texts.ipynb runs from top to bottom, and finds what it claims."""

from tests.helpers.notebooks import percent, run


def test_texts(monkeypatch):
    printed = run("texts.ipynb", monkeypatch)
    assert percent(printed["train"]) > 75
    assert percent(printed["contrast"]) > 30  # of some 13 words, one would be found by chance in 8%
    assert "no relevance rule for torch.logsumexp" in printed["refused"]
    scores = dict(line.split() for line in printed["words"].splitlines())
    assert max(scores, key=lambda word: float(scores[word])) in ("hardly", "masterpiece.")
