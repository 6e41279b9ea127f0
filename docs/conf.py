"""How Sphinx builds the documentation: `make docs`, without a network."""

import os
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
os.environ["JAX_PLATFORMS"] = "cpu"
# jaxtyping then prints `Float[Array, "B T"]` as a plain annotation.
typing.GENERATING_DOCUMENTATION = "lostjax"

import lostjax  # noqa: E402

project = "lostjax"
author = "the lostjax authors"
copyright = f"{author}, Apache-2.0"
version = release = lostjax.__version__

extensions = ["myst_nb", "sphinx.ext.napoleon", "docstrings", "offline"]
exclude_patterns = ["_build", "_ext"]
default_role = "code"
highlight_language = "text"
nitpicky = True
# Other libraries' types have no page here: a build needs no network for them.
nitpick_ignore_regex = [(r"py:.*", r".*")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks are shown as they are committed, with their outputs.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 70
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
add_module_names = False

html_theme = "furo"
html_title = "lostjax"
html_static_path = ["_static"]
html_css_files = ["lostjax.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    # The fonts of the reader's machine: nothing is fetched.
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
}
