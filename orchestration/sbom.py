"""`python -m orchestration.sbom`: what is installed here, as a CycloneDX list on stdout.

Python packages, and Debian's where there are any. The image is built with it, so it names what is
in the image and not what a lock once asked for. No clock and no random number: the same contents
give the same bytes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any
from urllib.parse import quote


def python_packages() -> list[dict[str, Any]]:
    """Every distribution that this Python can import."""
    found = {}
    for package in metadata.distributions():
        # A broken one has no name. Not by `[]`: newer Pythons raise where older ones gave None.
        for stated in package.metadata.get_all("Name") or ():
            name = re.sub(r"[-_.]+", "-", stated).lower()
            found[name] = component(name, package.version, "pypi") | licenses(package.metadata)
    return [found[name] for name in sorted(found)]


def licenses(about: Any) -> dict[str, Any]:
    """The licence a package states: an SPDX expression if it has one, else its own words."""
    if expression := about.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    classified = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier", [])
        if text.startswith("License :: OSI Approved :: ")
    ]
    return {"licenses": [{"license": {"name": name}} for name in classified]} if classified else {}


def debian_packages() -> list[dict[str, Any]]:
    """What dpkg knows; nothing on another system."""
    if shutil.which("dpkg-query") is None:
        return []
    asked = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    packages = sorted(tuple(line.split()) for line in lines)
    return [
        component(name, version, "deb/debian", f"?arch={architecture}")
        for name, version, architecture in packages
    ]


def component(name: str, version: str, kind: str, qualifiers: str = "") -> dict[str, Any]:
    """One entry; a package URL is its name in the databases of known weaknesses."""
    url = f"pkg:{kind}/{quote(name)}@{quote(version, safe='')}{qualifiers}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def bill_of_materials() -> dict[str, Any]:
    """The document, in CycloneDX 1.6."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "streamflow-feature-store",
                "name": "streamflow-feature-store",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [*python_packages(), *debian_packages()],
    }


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
    sys.stdout.write("\n")
