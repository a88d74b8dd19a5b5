"""The site's settings for Sphinx."""

from lfs_agent import __version__

project = "lfs-agent"
author = "the authors of lfs-agent"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build", "explanation/benchmarks"]  # parts of one page
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings: list[str] = []
nitpicky = True

html_theme = "furo"
html_title = f"lfs-agent {__version__}"
html_copy_source = False
html_show_copyright = False
highlight_language = "none"
