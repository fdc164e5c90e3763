"""Rules are data: read once, and held to names that exist."""

from __future__ import annotations

import pytest

from superlower.doctor.rules import Action, parse, rules, within
from superlower.errors import BadInputError

GOOD = """
[some-bug]
backends = ["tvm"]
symptom = "it fails"
action = "refuse"
cure = "don't"
source = "measured: tvm 0"
"""


def test_a_rule_is_named_by_its_table() -> None:
    (rule,) = parse(GOOD, "rules.toml")
    assert (rule.id, rule.backends, rule.action, rule.graph_free) == (
        "some-bug",
        ("tvm",),
        Action.REFUSE,
        True,
    )


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ('["tvm"]', '["tvn"]', r"unknown backend 'tvn': did you mean tvm"),
        ('action = "refuse"', 'action = "forbid"', r"Invalid enum value 'forbid'"),
        ('action = "refuse"', 'action = "rewrite"', r"field `passes`: rewrite needs it"),
        ('action = "refuse"', 'action = "set"', r"field `settings`: set needs it"),
        ('action = "refuse"', 'action = "avoid"', r"field `where`: avoid needs it"),
        ('cure = "don\'t"\n', "", r"field `cure`: refuse needs it"),
        ('symptom = "it fails"\n', "", r"missing required field `symptom`"),
        ('source = "measured: tvm 0"', 'source = " "', r"field `source`: is empty"),
        ("[some-bug]", '[some-bug]\nkinds = ["gpu"]', r"unknown kind of target 'gpu'"),
        ("[some-bug]", '[some-bug]\nsm = "75 to 80"', r"Invalid specifier|field `sm`"),
        ("[some-bug]", '[some-bug]\nprecisions = ["fp12"]', r"Invalid enum value 'fp12'"),
        ("[some-bug]", '[some-bug]\nversions = { apache-tvm = "0.27" }', r"field `versions.apache-tvm`"),
        (
            "[some-bug]",
            '[some-bug]\nsettings = { a = "1" }',
            r"field `settings`: goes with set, not with refuse",
        ),
        ("[some-bug]", '[some-bug]\nleaves = "set"', r"field `leaves`: is refuse or warn"),
        ("[some-bug]", "[some-bug]\nwhy = 1", r"unknown field `why`"),
        ("[some-bug]", '[some-bug]\nid = "x"', r"'some-bug' is not a rule"),
        ("[some-bug]", '[some-bug]\ncondition = { is = "sometimes" }', r"Invalid value 'sometimes'"),
        ("[some-bug]", '[some-bug]\ncondition = { is = "operator", op = "Relu" }', r"unknown field `op`"),
        (
            "[some-bug]",
            '[some-bug]\ncondition = { is = "operator", ops = ["Relux"] }',
            r"ONNX has no operator Relux",
        ),
        (
            "[some-bug]",
            '[some-bug]\ncondition = { is = "operator", ops = ["Relu"], beyond = { alpha = [0] } }',
            r"Relu has no attribute alpha",
        ),
        (
            "[some-bug]",
            '[some-bug]\ncondition = { is = "operator", types = ["half"] }',
            r"type half is none of fp64",
        ),
        ("[some-bug]", '[some-bug]\ncondition = { is = "opset", range = "24" }', r"Invalid specifier"),
        ("[some-bug]", "[some-bug", r"rules.toml is not TOML"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(wrong: str, right: str, message: str) -> None:
    assert wrong in GOOD
    with pytest.raises(BadInputError, match=message) as caught:
        parse(GOOD.replace(wrong, right), "rules.toml")
    assert str(caught.value).startswith("rules.toml")


def test_an_unknown_pass_is_refused() -> None:
    text = GOOD.replace('action = "refuse"', 'action = "rewrite"\npasses = [{ name = "mend" }]')
    with pytest.raises(BadInputError, match="unknown pass 'mend'"):
        parse(text, "rules.toml")


def test_a_pass_with_an_option_it_lacks_is_refused_when_made() -> None:
    uses = '[{ name = "convert-opset", options = { version = 19 } }]'
    (rule,) = parse(GOOD.replace('action = "refuse"', f'action = "rewrite"\npasses = {uses}'), "rules.toml")
    with pytest.raises(BadInputError, match=r"pass convert-opset can't be made.*version"):
        rule.passes[0].make()


def test_the_rules_say_where_they_come_from() -> None:
    found = rules()
    assert len({rule.id for rule in found}) == len(found)
    for rule in found:
        assert not rule.symptom.endswith("."), rule.id
        assert not rule.cure.endswith("."), rule.id
        assert len(f"{rule.symptom}: {rule.cure}") < 300, rule.id


@pytest.mark.parametrize(
    ("range_", "version", "held"),
    [
        ("", "10.4.0", True),
        (">=10.5", "10.4.0.26", False),
        (">=10.5", "10.5.0.18", True),
        ("<11.2", "11.1.0.106", True),
        ("<=1.7.1.116", "1.7.1.116", True),
        (">0.1.14.post1,<=0.1.15.post2", "0.1.14.post1", False),
        (">0.1.14.post1,<=0.1.15.post2", "0.1.15.post1", True),
        (">=2.13", "2.14.0rc1", True),
    ],
)
def test_ranges(range_: str, version: str, held: bool) -> None:
    assert within(version, range_) == held
