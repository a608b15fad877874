"""Rules are checked when they are read: the line, what is wrong and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.curation.ranges import Range
from jielong.curation.rules import RulesError, built_in_text, load_rules, parse_rules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sets: {a: {motoin: {min: 1}}}", "line 1: unknown key 'sets.a.motoin'; did you mean 'motion'?"),
        ("shots: {detecter: content}\nsets: {a: {}}", "line 1: unknown key 'shots.detecter'; did you mean 'detector'?"),
        ("sets: {a: {metadata: {short_sid: {min: 1}}}}", "did you mean 'short_side'?"),
        ("sets: {a: {motion: {mni: 1}}}", "unknown key 'sets.a.motion.mni'; did you mean 'min'?"),
        ("sizes: 3\nsets: {a: {}}", "did you mean 'size'?"),
        ("size: 64", "'sets' is missing"),
        ("sets: {}", "at least one"),
        ("sets: {a/b: {}}", "letters, digits, _ and -"),
        ("sets: {a: {motion: {}}}", "needs min, max or both"),
        ("sets: {a: {blur: {min: 3, max: 1}}}", "min 3 is above max 1"),
        ("sets:\n  a: {}\n  b: {extends: c}", "line 3: sets.b: extends: there is no set called 'c'"),
        ("sets: {a: {extends: b}, b: {extends: a}}", "in a circle: a -> b -> a"),
        ("sets: {a: {caption: {min: 0.1}}}", "set caption.scorer"),
        ("shots: {longest: 1}\nsets: {a: {length: {duration: {min: 2}}}}", "shots.longest cuts all to 1 s"),
        ("shots: {detector: transnet}\nsets: {a: {}}", "shots.detector"),
        ("sets: {a: {duplicates: {bits: 40}}}", "sets.a.duplicates.bits"),
    ],
)
def test_wrong_rules_are_explained(text: str, words: str) -> None:
    with pytest.raises(RulesError, match=r"^rules") as error:
        parse_rules(text)
    assert words in str(error.value)


def test_a_set_extends_another_limit_by_limit() -> None:
    rules = parse_rules(
        "sets:\n  a: {motion: {min: 1, max: 9}, metadata: {short_side: {min: 64}, aspect: {max: 2}}, blur: {min: 5}}\n"
        "  b: {extends: a, motion: {min: 3}, metadata: {aspect: null}, blur: null}\n"
        "  c: {extends: b, text: {max: 0.1}}"
    )
    found = rules.sets["c"]
    assert (found.motion, found.blur, found.text) == (Range(min=3, max=9), None, Range(max=0.1))
    assert found.metadata is not None
    assert (found.metadata.short_side, found.metadata.aspect) == (Range(min=64), None)


def test_the_built_in_rules_are_two_sets_of_which_the_second_is_stricter() -> None:
    rules = load_rules("open-sora")
    wide, strict = rules.sets["pretrain"], rules.sets["finetune"]
    assert wide.blur is not None
    assert strict.blur is not None
    assert wide.text is not None
    assert strict.text is not None
    assert (wide.blur.min or 0) < (strict.blur.min or 0)
    assert (wide.text.max or 0) > (strict.text.max or 0)
    assert strict.length == wide.length


def test_commands_print_the_rules(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["data", "rules", "open-sora"])
    assert printed.stdout == built_in_text()
    keys = CliRunner().invoke(app, ["data", "rules"]).stdout
    for key in ("shots.detector", "motion.interval", "sets.NAME.metadata.aspect", "sets.NAME.duplicates.bits", "sets.NAME.extends"):
        assert key in keys
    path = tmp_path / "mine.yaml"
    path.write_text(printed.stdout.replace("brightness", "brightnes"))
    refused = CliRunner().invoke(app, ["data", "rules", str(path)])
    assert refused.exit_code == 1
    assert "did you mean 'brightness'?" in refused.stderr
    missing = CliRunner().invoke(app, ["data", "rules", "opensora"])
    assert "the built-in rules are open-sora" in missing.stderr
