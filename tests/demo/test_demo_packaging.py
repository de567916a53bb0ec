import tomllib
from pathlib import Path

from proxyless.cli.demo import bookstore

ROOT = Path(__file__).parents[2]


def test_the_wheel_has_the_bookstore_where_the_demo_looks_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sources = project["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]
    packaged = str((Path(bookstore.__file__).parent / "bookinfo").relative_to(ROOT))
    assert {str(bookstore.bookinfo_folder().relative_to(ROOT)): packaged} == sources
