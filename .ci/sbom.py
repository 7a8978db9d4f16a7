"""What the service is made of at run time, as a CycloneDX 1.6 document: `make sbom`. Asks no network.

Names, versions, hashes and who needs whom come from the lock file, licences from what is installed.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

# One pin: its line, the lines of its hashes, and the comment that names who needs it ("-r requirements.in": we do).
PIN = re.compile(
    r"^(?P<name>[a-z0-9._-]+)(\[.*\])?==(?P<version>[^\s;]+).*\n"
    r"(?P<hashes>(?: +--hash=.*\n)+)"
    r"(?P<needed_by>(?: +#.*(?:\n|$))*)",
    re.MULTILINE,
)
OURSELVES = "requirements.in"
NAME_OF_LICENCE_MAX = 60  # some packages put the whole text in that field


def licences(package: str) -> list[License]:
    """What the installed package says of itself; nothing for one that only another platform installs."""
    try:
        said = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return []
    fields = [*said.get_all("License-Expression", []), *said.get_all("License", [])]
    fields += [name for name in said.get_all("Classifier", []) if name.startswith("License ::")]
    short = [name for name in fields if name and "\n" not in name and len(name) <= NAME_OF_LICENCE_MAX]
    return [LicenseFactory().make_from_string(short[0].rpartition(":: ")[2])] if short else []


def component(pin: re.Match[str]) -> Component:
    name, version = pin["name"], pin["version"]
    hashes = [
        HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in re.findall(r"sha256:(\w+)", pin["hashes"])
    ]
    purl = PackageURL("pypi", name=name, version=version)
    # The hashes are of the files that may be installed, one for each platform, not of the component as such.
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION, url=XsUri(f"https://pypi.org/simple/{name}/"), hashes=hashes
    )
    return Component(
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=licences(name),
        external_references=[files],
    )


def service(pyproject: Path) -> Component:
    project = tomllib.loads(pyproject.read_text())["project"]
    return Component(
        name=project["name"], version=project["version"], type=ComponentType.APPLICATION, bom_ref=project["name"]
    )


def bill(root: Component, pins: Iterable[re.Match[str]]) -> Bom:
    bom = Bom()
    bom.metadata.component = root
    needs: dict[str, list[Component]] = {}
    for pin in pins:
        part = component(pin)
        bom.components.add(part)
        for name in re.findall(r"[\w.-]+", pin["needed_by"]):
            needs.setdefault(name, []).append(part)
    bom.register_dependency(root, needs.get(OURSELVES))
    for part in bom.components:
        bom.register_dependency(part, needs.get(part.name))
    return bom


def main() -> None:
    requirements, output = map(Path, sys.argv[1:])
    pins = list(PIN.finditer(requirements.read_text()))
    text = JsonV1Dot6(bill(service(Path(__file__).parents[1] / "pyproject.toml"), pins)).output_as_string(indent=2)
    if invalid := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"sbom failed: {invalid}")
    output.write_text(text + "\n")
    print(f"{output}: {len(pins)} components")


if __name__ == "__main__":
    main()
