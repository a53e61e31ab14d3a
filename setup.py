"""What pyproject.toml cannot say; everything else is there.

The commands live in `tools/`, which is installed as `irv2data.tools`: nothing called `tools` lands in site-packages.
Naming `package_dir` in pyproject.toml would mean listing every package by hand as well.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["irv2data", "irv2data.*"]),
        "irv2data.tools",
        *(f"irv2data.tools.{name}" for name in find_packages("tools")),
    ],
    package_dir={"irv2data.tools": "tools"},
)
