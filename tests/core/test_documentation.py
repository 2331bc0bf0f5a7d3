"""README and docs/: what they link to is there, the configs in them are right, and every algorithm has its page."""

import json
import re
from pathlib import Path

import pytest

from nncf_ext import NNCFConfig
from nncf_ext.algorithms import ALGORITHMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

CONFIG = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONFIGS = [
    pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}:{i}")
    for page in PAGES
    for i, text in enumerate(CONFIG.findall(page.read_text(encoding="utf-8")))
]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them: in small letters, with dashes for spaces, without punctuation."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


def test_the_readme_is_short():
    """It says what this is and where the rest stands; what is explained is explained in docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1000


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_are_right(text):
    """Every block of JSON is a config, or, where it begins with a key, what stands in one."""
    assert NNCFConfig.from_dict(json.loads(f"{{{text}}}" if text.startswith('"') else text)).algorithms()


@pytest.mark.parametrize("name", [*ALGORITHMS, "quantizers", "packing"])
def test_the_page_of_an_algorithm(name):
    folder = ROOT / "docs" / "algorithms"
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Config", "Formula", "Measured", "Limits", *(["Keys"] if name in ALGORITHMS else [])]
    assert "**Take it**" in text or name == "quantizers"
    assert (f'"algorithm": "{name}"' in text) == (name in ALGORITHMS)
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert f"[{name}]({name}.md)" in index and f"\n{name}\n" in index  # the table, and the site's menu
    assert name not in ALGORITHMS or f"[`{name}`](../config.md#{name})" in index
