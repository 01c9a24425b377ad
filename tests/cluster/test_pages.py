"""The pages about clusters: each test that they name exists, each file and module that their commands use too."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("cluster", "kubernetes", "operations", "security")]


def blocks(page: Path) -> str:
    return "\n".join(re.findall(r"```\n(.*?)```", page.read_text(), flags=re.DOTALL))


def test_every_promise_of_the_security_page_names_a_test_that_exists():
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                defined.add(node.name)
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 15
    assert set(named) <= defined, set(named) - defined


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_modules_in_commands_exist(page):
    text = blocks(page)
    for path in re.findall(r"(?<![\w/])(?:cluster|configs|tests)/[\w./-]+", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, f"{page.name}: {module}"
    for target in re.findall(r"^make (\w+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), f"make {target}"


def test_secrets_and_services_in_the_kubernetes_page_are_those_of_the_manifests():
    from cluster.kubernetes_secrets import NAMES

    text = blocks(ROOT / "docs" / "kubernetes.md") + (ROOT / "docs" / "security.md").read_text()
    assert set(re.findall(r"get secret (\S+)", text)) <= set(NAMES)
    assert set(re.findall(r"`(mtp-(?!head|serve|train)[a-z-]+)`", text)) - {"mtp-platform"} <= set(NAMES)
    clusters = (ROOT / "cluster/kubernetes/base/raycluster.yaml").read_text()
    (service,) = set(re.findall(r"service/(\S+)-head-svc", text))
    assert f"\n  name: {service}\n" in clusters
