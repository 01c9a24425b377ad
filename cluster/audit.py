"""`make audit`: known vulnerabilities of what is pinned, and a bill of materials of what is installed.

Vulnerabilities are looked up by pip-audit, from an environment of its own so that auditing changes nothing that is
audited. Where it cannot ask anybody (no network, a mirror that does not know), that is said and is no failure; the bill
of materials needs nobody.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

TIMEOUT_S = 900


def bill_of_materials() -> dict[str, Any]:
    """What is installed beside this interpreter, as a CycloneDX 1.6 document."""
    installed = {one.metadata["Name"]: one for one in importlib.metadata.distributions() if one.metadata["Name"]}
    components = [_component(installed[name]) for name in sorted(installed, key=str.lower)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "mtp-platform"}},
        "components": components,
    }


def _component(one: importlib.metadata.Distribution) -> dict[str, Any]:
    name, version = one.metadata["Name"], one.version
    licence = one.metadata.json.get("license_expression")
    purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}"
    found: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
    return found | ({"licenses": [{"expression": licence}]} if licence else {})


def vulnerabilities(pip_audit: Path, pins: Path) -> tuple[list[str], int, int]:
    """Look up every pin; returns sentences about vulnerable ones, and how many pins were and were not looked up."""
    total = sum(1 for line in pins.read_text().splitlines() if "==" in line.partition("#")[0])
    command: list[str | Path] = [
        pip_audit,
        "--requirement",
        pins,
        "--no-deps",
        "--disable-pip",
        "--progress-spinner=off",
        "--format=json",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        answered = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):  # not installed, or it reached nobody
        return [], 0, total
    known = [one for one in answered if "skip_reason" not in one]
    sentences = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in known
        for flaw in one["vulns"]
    ]
    return sentences, len(known), total - len(known)


def main(arguments: list[str]) -> int:
    """Both; the exit code is 1 if something is known to be vulnerable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pip-audit", type=Path, required=True, help="The program.")
    parser.add_argument("--pins", type=Path, default=Path("constraints.txt"))
    parser.add_argument("--out", type=Path, default=Path("sbom.json"))
    asked = parser.parse_args(arguments)
    asked.out.write_text(json.dumps(bill_of_materials(), indent=1))
    print(f"Bill of materials: {asked.out}")
    sentences, known, unknown = vulnerabilities(asked.pip_audit, asked.pins)
    if known:
        print("\n".join(sentences) or "No vulnerability is known.", end=f" ({known} pins looked up)\n")
    if unknown:
        print(f"{unknown} pins could not be looked up: nobody who knows them can be reached from here.")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
