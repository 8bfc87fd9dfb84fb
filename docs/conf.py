"""Sphinx's configuration; `docs/build.py` puts the pages together and calls Sphinx with it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import collection
import markup

settings = collection.project()
repository = collection.repository()

project = "tp4"
author = settings["authors"][0]["name"]
copyright = f"{author}. MIT licence"
version = release = settings["version"]
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_copybutton",
    # MathJax 3.2.2 with its fonts, from the package index: the pages must read without a network, and a reader's
    # machine needs no npm. Sphinx itself would name a content delivery network.
    "sphinx-mathjax-offline",
]
mathjax3_config = {
    "options": {"enableMenu": False}
}  # the menu's speech and zoom parts are not needed to read

# Notebooks are shown as they were executed, never run; widgets need a kernel, so their static fallbacks are shown.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
suppress_warnings = [
    "mystnb.unknown_mime_type"
]  # reports give their numbers as data beside the HTML that is shown
nb_render_markdown_format = "myst"
nb_merge_streams = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_dmath_double_inline = True  # displays inside a paragraph, as Jupyter shows them
myst_heading_anchors = 3

highlight_language = (
    "none"  # equations in plain text are no Python; doctests and fenced code say what they are
)
default_role = "py:obj"  # a name in single backticks is a link where such an object exists
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "tp4"
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is, until the reader chooses
html_use_index = False  # the search finds every name; the alphabetical index does not fit a phone
html_domain_indices = False
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_js_files = ["tables.js"]
html_copy_source = True  # "download notebook" is this copy, byte for byte the executed file
html_sourcelink_suffix = ""
html_last_updated_fmt = None  # the same notebooks make the same pages
html_theme_options = {
    "path_to_docs": "",
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar and the article's head have the search
    "use_download_button": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository:
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }


def setup(app):
    app.connect("source-read", markup.notebook_for_the_web)
    # Before napoleon (priority 500), which would take the equations for quotations.
    app.connect("autodoc-process-docstring", markup.plain_mathematics, priority=400)
