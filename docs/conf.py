"""Settings of Sphinx; `make docs` builds the pages into build/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from latf_sampling import __version__  # noqa: E402

project = "latf_sampling"
author = "the latf_sampling authors"
copyright = f"2026, {author}"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "figures", "reference"]
exclude_patterns = ["_ext", "figures"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
default_role = "code"  # single backticks in docstrings
html_theme = "furo"
html_title = f"latf_sampling {version}"
html_static_path = ["_static"]
html_copy_source = False


def _plain_bars(app, what, name, value, options, lines) -> None:
    """Docstrings are plain text with numpy's sections: a bar in them is an absolute value, no substitution."""
    lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _plain_bars)
