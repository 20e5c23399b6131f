"""Packaging of txtransfers: one wheel, one twistd plugin, no compiled code of its own."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="txtransfers",
    version="0.1.0",
    description="Moves DICOM studies between Orthanc-style peers: fast, verified, all or nothing",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[*find_packages(include=["txtransfers", "txtransfers.*"]), "twisted.plugins"],
    package_data={
        "txtransfers": ["py.typed"],
        "txtransfers.web": ["openapi.yaml"],
        "txtransfers.web.explorer": ["static/*"],
        "txtransfers.web.gateway": ["*.js"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "Twisted>=24.7.0",
        "treq>=24.9.0",
        "zope.interface>=6.0",
        "service-identity>=24.1.0",
        "pyOpenSSL>=24.3.0",
        "cryptography>=43.0.0",
        "attrs>=23.2.0",
        "click>=8.1",
        "backports.zstd>=1.0.0; python_version < '3.14'",
        "isal>=1.6.0",
        "msgspec>=0.18.6",
        "prometheus-client>=0.20",
        "pydicom>=3.0.0",
        "PyYAML>=6.0",
        "rich>=13.7",
    ],
    entry_points={"console_scripts": ["txtransfers = txtransfers.cli:main"]},
    extras_require={
        "test": [
            "coverage>=7.4",
            "hypothesis>=6.100",
            "jsonschema-rs>=0.40",  # schemathesis's own
            "mypy>=1.10",
            "mypy-zope>=1.0.5",
            "numpy>=1.26",
            "ruff>=0.5",
            "schemathesis>=4.0",
            "trustme>=1.1.0",
            "types-PyYAML",
            "types-setuptools",
        ],
        "demo": ["numpy>=1.26"],
        # Not for the tests: it wants a compiler where there is no wheel, and only more time than
        # they have makes it better than the changes that they try.
        "fuzz": ["atheris>=3.0.0"],
    },
)
