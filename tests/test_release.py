"""What a release needs: one version everywhere, workflows that run what the repository has."""

import re
from pathlib import Path

import yaml

import tagi


def test_one_version_everywhere(repo_root: Path) -> None:
    changelog = (repo_root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert sections[:2] == [tagi.__version__, "0.1.0"]
    citation = yaml.safe_load((repo_root / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", tagi.__version__)
    assert len(citation["preferred-citation"]["authors"]) == 8


def test_workflows_run_targets_that_there_are(repo_root: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (repo_root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    files = sorted((repo_root / ".github" / "workflows").glob("*.yml"))
    assert [file.stem for file in files] == ["docs", "release", "tests"]
    for file in files:
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        for made in re.findall(r"^make (\S+)", "\n".join(commands), re.MULTILINE):
            assert made in targets
