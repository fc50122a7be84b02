"""What YAML reads is what was written, or one line says what it would have read."""

import pytest

from configs.yaml_text import ConfigError, parse_yaml, read_override


@pytest.mark.parametrize(
    ("override", "named"),
    [
        # A comment.
        ("run_dir=runs/try #2", ["run_dir: ", '"#2" for a comment', "'run_dir=\"runs/try #2\"'"]),
        ("run_dir=# all", ['"# all" for a comment']),
        ("model.model_options={depth: 2} # small", ['"# small" for a comment']),
        ("model.model_options=[1, # one\n2]", ["for a comment"]),
        # A line break.
        ("run_dir=a\nb", ["run_dir: ", "a line break for a space"]),
        ("run_dir='a\nb'", ["a line break for a space"]),
        # A key without its value.
        ("model.model_options={depth:2,embed_dim:48}", ['"depth:2" has no value', "{key: value}"]),
        ("model.model_options={depth: 2, embed_dim:48}", ['"embed_dim:48" has no value']),
        ("model.model_options={depth: 2, embed_dim: }", ['"embed_dim" has no value']),
        ("model.model_options={depth}", ['"depth" has no value']),
        ("model.model_options={a: {depth:2}}", ['"depth:2" has no value']),
        ("model.model_options=[{depth:2}]", ['"depth:2" has no value']),
        # Numbers of base 8 and 60.
        ("seed=010", ["010 for the number 8", "accepted: 8, or quotes"]),
        ("seed=[1, 010]", ["010 for the number 8"]),
        ("trainer.max_time=12:00:00:00", ["12:00:00:00 for the number 2592000"]),
        ("trainer.max_time=1:30", ["1:30 for the number 90"]),
    ],
)
def test_what_yaml_would_leave_out_or_make_up_is_refused(override, named):
    with pytest.raises(ConfigError) as error:
        read_override(override)
    message = str(error.value)
    assert "accepted: " in message and "\n" not in message
    assert all(words in message for words in named), message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"runs/try #2"', "runs/try #2"),
        ("'runs/try #2'", "runs/try #2"),
        ("runs/try#2", "runs/try#2"),
        ("http://host:80/x#y", "http://host:80/x#y"),
        ('"a\\nb"', "a\nb"),
        ("{depth: 2}", {"depth": 2}),
        ("{depth: null}", {"depth": None}),
        ('{"depth":2}', {"depth": 2}),  # JSON
        ("{a: ''}", {"a": ""}),
        ("'010'", "010"),
        ('"12:00:00:00"', "12:00:00:00"),
        ("00:12:00:00", "00:12:00:00"),
        ("0.1", 0.1),
        ("0", 0),
        ("[a:1, b]", ["a:1", "b"]),
        ("", None),
    ],
)
def test_what_is_written_plainly_is_read(text, value):
    assert read_override(f"key={text}") == {"key": value}


def test_the_suggested_quotes_are_read_as_what_was_meant():
    with pytest.raises(ConfigError) as error:
        read_override("run_dir=a 'b' \"c\" #2")
    suggested = str(error.value).rpartition("its own, '")[2].removesuffix("'")
    assert read_override(suggested) == {"run_dir": "a 'b' \"c\" #2"}


def test_a_file_may_have_comments_and_empty_values():
    text = "a: 1  # one\nb:\nc: {d: 2}\n"
    assert parse_yaml(text, "file") == {"a": 1, "b": None, "c": {"d": 2}}
    with pytest.raises(ConfigError, match='file, line 2: the key "d:2" has no value'):
        parse_yaml("a: 1\nc: {d:2}\n", "file")
