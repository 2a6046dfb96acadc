"""README and docs: paths, links, modules and options exist, and the examples of docs/extend.md train."""

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from toy_runs import ROOT, run

from train import VideoARCLI, main

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
EXTEND = (ROOT / "docs/extend.md").read_text()
SECTIONS = [section for section in re.split(r"^## ", CONFIGURATION, flags=re.MULTILINE) if "\nBase: `" in section]
# Options that replace the data of the base command, and the ones before them with it.
OTHER_DATA = ("--data VideoBuckets", "-c configs/data/ucf101.yaml", "-c configs/stage/paper_1", "--data configs/data/joint")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_relative_links_exist() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not link.startswith("http"):
                path, _, anchor = link.partition("#")
                target = page.parent / path if path else page
                assert target.exists(), f"{page.name}: {link}"
                assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in PAGES if page.name not in ("README.md",) and f"({page.name})" not in index] == []


def test_paths_of_the_paper_table_exist() -> None:
    table = README.read_text().partition("## From the paper to the code")[2].partition("\n## ")[0]
    paths = re.findall(r"`([^`]+)`", table)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_named_modules_can_be_imported() -> None:
    names = {name for page in PAGES for name in re.findall(r"python -m ([\w.]+)", page.read_text())}
    assert len(names) > 10
    missing = [name for name in sorted(names) if name.partition(".")[0] not in ("venv", "lightning") and not importlib.util.find_spec(name)]
    assert missing == []


def commands(section: str) -> list[list[str]]:
    """The section's options added to its base command; one command more for every row that replaces the data."""
    base = re.search(r"^Base: `([^`]+)`", section, flags=re.MULTILINE)
    assert base
    rows = re.findall(r"^\| .+ \| (.*`(?:--|-c ).*) \|$", section, flags=re.MULTILINE)
    found = [shlex.split(base[1])]
    for row in rows:
        options = [shlex.split(option) for option in re.findall(r"`((?:--|-c )[^`]+)`", row)]
        if any(start in row for start in OTHER_DATA):
            found.append(shlex.split(base[1]))
        found[-1] += [word for option in options for word in option]
    return found


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_options_of_configuration_parse(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without building anything."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("train.check_start", lambda *_: None)
    for command in commands(section):
        with patch.object(VideoARCLI, "instantiate_classes"), patch.object(VideoARCLI, "_run_subcommand"):
            main(command)


def example(heading: str) -> tuple[str, str, list[str]]:
    """Module name, code and options of a section of docs/extend.md."""
    section = EXTEND.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    name, code = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", section, flags=re.DOTALL)[0]
    options = re.findall(r"^    (--.+)$", section, flags=re.MULTILINE)
    return name, code, shlex.split(" ".join(options))


@pytest.mark.parametrize(
    ("heading", "task"), [("DataModule", "tokenizer"), ("Loss", "tokenizer"), ("RoPE", "videoar"), ("Callback", "videoar")]
)
def test_examples_of_extend_train(heading: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, code, options = example(heading)
    assert len(code.splitlines()) <= 22
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    if heading == "DataModule":
        options += ["--data.clip", "{frames: 5, height: 16, width: 16}", "--data.batch_size", "4"]
    checkpoint = run("fit", task, tmp_path, *options, "--trainer.max_steps", 1, "--trainer.val_check_interval", 1)
    assert sys.modules[name]
    assert (tmp_path / "fit.yaml").read_text().count(f"{name}.") and checkpoint.parent.is_dir()
