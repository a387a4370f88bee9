"""The documentation's site: ``make docs`` builds it into ``build/docs/``. It loads nothing from other hosts."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import download_reference, pending_xref
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging

import fastce

INCLUDED = {  # files outside this folder, and the pages that include them
    "README": "index",
    "CHANGELOG": "changelog",
    "CONTRIBUTING": "contributing",
    "SECURITY": "security",
    "bench/results/full": "benchmarks/full",
    "bench/results/report": "benchmarks/report",
    "examples/README": "gallery/index",
}
REPOSITORY = ""  # the URL of a folder of files, such as https://…/blob/main, once they are public

# libraries that are too large to install for the names of their classes
missing = [name for name in ("torch", "mpi4py") if find_spec(name) is None]
with mock(missing):
    if "torch" in missing:
        import_module("torch.autograd").Function = type("Function", (type("", (), {"apply": None}),), {})
        import_module("torch.nn").CrossEntropyLoss = type("CrossEntropyLoss", (), {})
    import_module("fastce.interop.mpi")
    import_module("fastce.interop.torch")

project = "fastce"
version = release = fastce.__version__
copyright = "the fastce developers"
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
nitpicky = True
default_role = "py:obj"
exclude_patterns = ["_templates", "gallery/*.ipynb", "gallery/*.py"]
templates_path = ["_templates"]

autodoc_typehints = "none"  # numpydoc's sections have the types
autosummary_generate = True
copybutton_prompt_text = ">>> |\\.\\.\\. "
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["config.cache", "myst.header"]  # the gallery's functions; reports without a second level
numpydoc_show_class_members = False  # a template has them

ORDER = [  # of the gallery
    "loss_curve",
    "train_digits",
    "segmentation",
    "early_stopping",
    "distillation",
    "word_model",
    "memory_map",
    "softmax_regression",
    "mygrad_network",
    "autograd_fit",
    "dask_evaluate",
    "torch_training",
    "boosting_soft_labels",
    "mpi_words",
]
NOT_RUN = ("torch_", "boosting_", "mpi_")  # large libraries; the examples end with an output, which a test compares


def draw_for_both_themes(*_):
    """Make plots whose text and lines are seen on white and on black."""
    import matplotlib as mpl

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    mpl.rcParams.update(dict.fromkeys(names, "#808080"))
    mpl.rcParams.update({"axes.prop_cycle": mpl.cycler(color=["#2f86d0", "#dd6b20", "#2f9e6b"])})
    mpl.rcParams.update({"savefig.transparent": True, "legend.framealpha": 0, "legend.labelcolor": "#808080"})


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/(?!{'|'.join(NOT_RUN)})\w+\.py$",
    "within_subsection_order": lambda name: ORDER.index(Path(name).stem),
    "reset_modules": ("matplotlib", draw_for_both_themes),
    "default_thumb_file": str(Path(__file__).parent / "_static" / "logo.svg"),
    "thumbnail_size": (400, 200),
    "doc_module": ("fastce",),
    "min_reported_time": 1e6,  # times of the build mean nothing
    "write_computation_times": False,
    "show_signature": False,
    "download_all_examples": False,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "fastce"
html_static_path = ["_static"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_css_files = ["site.css"]
pages_without_sections = "coming-from accuracy architecture experiments fuzz contributing security changelog"
html_sidebars = {page: [] for page in pages_without_sections.split()}
html_favicon = html_logo = "_static/logo.svg"
html_copy_source = html_use_index = html_domain_indices = False
html_math_renderer = "mathml"
html_theme_options = {
    "footer_end": [],
    "footer_start": ["copyright"],
    "header_links_before_dropdown": 5,
    "logo": {"text": "fastce"},
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
}


def render_math(writer, node):
    """Write a formula as MathML, which browsers render without a script."""
    try:
        formula = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        logging.getLogger(__name__).warning("no MathML for %r: %s", node.astext(), error, location=node)
        formula = writer.encode(node.astext())
    # thin spaces around names of functions, as in TeX
    formula = re.sub(r"(</(?!mo)\w+>)(?=\s*<mi[^>]*>\w+</mi>\s*<mo>&Apply)", r'\1<mspace width="0.17em"/>', formula)
    formula = re.sub(r"(&ApplyFunction;</mo>)(?!\s*<mo)", r'\1<mspace width="0.17em"/>', formula)
    writer.body.append(f'<div class="formula">{formula}</div>' if isinstance(node, nodes.math_block) else formula)
    raise nodes.SkipNode


def link_outside(app, document):
    """Make links to files outside this folder lead to the pages that show them, or to the repository.

    Without a repository, the site has copies of other files to download.
    """
    docs = Path(app.srcdir)
    for link in document.findall(pending_xref):
        if link.astext().endswith(".md"):  # a file's name is good to read in the repository, a title on the site
            link["refexplicit"] = False
            link[0].clear()
        if link["refdomain"] == "doc" and Path(link["reftarget"]).is_absolute():
            link["reftarget"] = INCLUDED[Path(link["reftarget"]).relative_to(docs.parent).as_posix()]
    for link in list(document.findall(download_reference)):
        file = (docs / app.env.docname).parent.joinpath(link["reftarget"]).resolve()
        if file.parent == docs.parent / "examples":
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/gallery/{file.stem}"}
            link.replace_self(pending_xref("", *link.children, refdoc=app.env.docname, refexplicit=True, **target))
        elif REPOSITORY and file.parent != docs / "gallery":
            target = f"{REPOSITORY}/{file.relative_to(docs.parent).as_posix()}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=target))


def setup(app):
    """Connect the two functions above."""
    app.add_html_math_renderer("mathml", (render_math, None), (render_math, None))
    app.connect("doctree-read", link_outside, priority=400)  # earlier than files are gathered for download
