"""The site of the documentation: `make docs`. Its sources are the repository's own pages and notebooks, as they are."""

project = "nncf_ext"
author = "the nncf_ext authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = ["docs/conf.py", "docs/site_root", "build", ".venv*", "runs"]
html_theme = "furo"
html_title = "nncf_ext"
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["site_static"]
html_css_files = ["site.css"]
html_extra_path = ["site_root"]  # leads to the first page, which is a folder down

nb_execution_mode = "off"  # notebooks are committed with their outputs, which `make notebooks` makes
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub makes them

default_role = "code"  # docstrings have `names` as Markdown has them
autodoc_mock_imports = ["tensorflow", "keras"]  # it would not share a process with PyTorch well
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
