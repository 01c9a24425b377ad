"""`make audit`: the bill of materials, and an audit that cannot ask anybody."""

import importlib.metadata
import json
import re

from cluster.audit import bill_of_materials, main, vulnerabilities


def test_the_bill_names_what_is_installed_with_its_version():
    bill = json.loads(json.dumps(bill_of_materials()))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {one["name"]: one for one in bill["components"]}
    for name in ("ray", "torch", "mlflow"):
        assert listed[name]["version"] == importlib.metadata.version(name)
    assert listed["ray"]["purl"] == f"pkg:pypi/ray@{importlib.metadata.version('ray')}"
    assert len({one["bom-ref"] for one in bill["components"]}) == len(bill["components"])


def test_pins_that_could_not_be_looked_up_are_counted_and_are_no_failure(tmp_path, capsys):
    pins = tmp_path / "constraints.txt"
    pins.write_text("# a comment\nray==2.60.0\ntorch==2.13.0\n")
    assert vulnerabilities(tmp_path / "absent", pins) == ([], 0, 2)
    assert (
        main(["--pip-audit", str(tmp_path / "absent"), "--pins", str(pins), "--out", str(tmp_path / "sbom.json")]) == 0
    )
    assert re.search("2 pins could not be looked up", capsys.readouterr().out)


def test_a_known_vulnerability_fails_the_audit_and_is_named(tmp_path, capsys):
    answer = {"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\nexit 1\n")
    program.chmod(0o700)
    (tmp_path / "pins").write_text("x==1\n")
    arguments = ["--pip-audit", str(program), "--pins", str(tmp_path / "pins"), "--out", str(tmp_path / "sbom.json")]
    assert main(arguments) == 1
    assert "x 1: CVE-1, mended in 2" in capsys.readouterr().out
