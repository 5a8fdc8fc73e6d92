"""Build the package with configs/ inside it, as PACKAGE/configs; pyproject.toml declares the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the repository's configs/ into the package. An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            package = next(name for name in self.packages if "." not in name)
            target = Path(self.build_lib) / package / "configs"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build in the same place
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": BuildWithConfigs})
