"""The worked example of docs/curation.md runs from its text, and prints what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_lines import ROOT, blocks, lines_of
from typer.testing import CliRunner

from jielong.apps.cli import app

PAGE = ROOT / "docs" / "curation.md"


def test_the_page_runs_from_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "cv2", "scenedetect", "imagehash"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (data,) = blocks(PAGE, "python")
    exec(compile(data, "curation", "exec"), {"__name__": "__main__"})
    (rules,) = blocks(PAGE, "yaml")
    Path("my/rules.yaml").write_text(rules)
    printed = []
    for words in (line for text in blocks(PAGE, "sh") for line in lines_of(text)):
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{words}: {done.output}"
        printed.append(done.stdout)
    (shown,) = blocks(PAGE, "text")
    for line in filter(None, map(str.split, shown.splitlines())):
        assert re.search(r"\s+".join(map(re.escape, line if set(line[0]) != {"─"} else ["stage"])), printed[0]), line
    kept = [json.loads(line)["file_name"] for line in Path("my/curated/finetune/metadata.jsonl").read_text().splitlines()]
    assert kept == ["0.mp4", "1.mp4", "2.mp4", "two-shots_000000-000016.mp4", "two-shots_000016-000032.mp4"]
    assert "near-duplicate" in Path("my/curated/report.html").read_text()
    assert Path("my/curated/pretrain/copy.webm").is_file()
