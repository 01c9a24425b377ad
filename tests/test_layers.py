"""Who may import whom (docs/architecture.md), held by walking the syntax trees of the four source folders."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = {
    "mtp.errors": 0,
    "mtp.threads": 0,
    "mtp.progress": 0,
    "mtp.config": 0,
    "mtp.tokenizer": 0,
    "mtp.objective": 1,
    "mtp.model": 1,
    "mtp.decode": 2,
    "mtp.checkpoint": 2,
    "mtp.data": 2,
    "mtp.plan": 2,
    "mtp.sweep": 2,
    "mtp.registry": 3,
    "mtp.train": 4,
    "mtp.evaluate": 4,
    "mtp.compare": 4,
    "mtp.cli": 5,
    "jobs": 5,
    "serve": 5,
    "cluster": 5,
}

HOMES = {
    "ray.data": ("mtp.data.stream",),
    "deepspeed": ("mtp.train.engine",),
    "mlflow": ("mtp.registry",),
    "ray.train": ("mtp.train",),
    "ray.serve": ("serve",),
    "fastapi": ("serve",),
    "typer": ("mtp.cli", "jobs.entry"),
}
"""A heavy library is imported in one place only, so that the rest of the code does not pay for it or depend on it."""

FORBIDDEN = {
    0: ("torch", "ray", "deepspeed", "mlflow", "pyarrow"),
    1: ("ray", "deepspeed", "mlflow", "torch.distributed", "pyarrow", "transformers"),
    2: ("deepspeed", "mlflow"),
}


def sources() -> list[tuple[str, Path]]:
    found = []
    for base, package in ((ROOT / "platform", "mtp"), (ROOT, "jobs"), (ROOT, "serve"), (ROOT, "cluster")):
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


def imports(path: Path, module: str) -> Iterator[str]:
    """Every imported dotted name, `from a import b` as a.b; annotations under TYPE_CHECKING count too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively; use the absolute name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer_of(name: str) -> int | None:
    return next((layer for package, layer in LAYERS.items() if within(name, package)), None)


SOURCES = sources()


@pytest.mark.parametrize(("module", "path"), SOURCES, ids=[name for name, _ in SOURCES])
def test_a_module_imports_only_its_own_layer_and_below(module, path):
    if module == "mtp":
        return
    own = layer_of(module)
    assert own is not None, f"{module} belongs to no layer; add its package to LAYERS"
    for name in imports(path, module):
        other = layer_of(name)
        assert other is None or other <= own, f"{module} (layer {own}) imports {name} (layer {other})"
        if within(module, "mtp") and not within(module, "mtp.cli"):
            assert not any(within(name, top) for top in ("jobs", "serve", "cluster", "mtp.cli")), (
                f"{module} imports {name}, which lies above the library"
            )
        assert not (within(module, "serve") and within(name, "jobs")), f"{module} imports {name}"
        assert not (within(module, "jobs") and within(name, "serve")), f"{module} imports {name}"
        assert not (within(module, "serve") and within(name, "mtp.train")), f"serving imports training: {module}"


@pytest.mark.parametrize(("module", "path"), SOURCES, ids=[name for name, _ in SOURCES])
def test_heavy_libraries_are_imported_in_their_homes_alone(module, path):
    own = layer_of(module)
    for name in imports(path, module):
        for library, homes in HOMES.items():
            if within(name, library):
                assert any(within(module, home) for home in homes), f"{module} imports {name}; its home is {homes}"
        for library in FORBIDDEN.get(own if own is not None else 0, ()):
            if (library, own) == ("ray", 2) or within(module, "mtp.data"):
                continue
            assert not within(name, library), f"{module} (layer {own}) imports {name}"


def test_platform_is_no_package_and_jobs_shadow_no_standard_module():
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"
    assert not (ROOT / "jobs" / "tokenize.py").exists(), "it would shadow the standard library's tokenize"
    for package in ("jobs", "serve", "cluster"):
        assert (ROOT / package / "__init__.py").is_file()
