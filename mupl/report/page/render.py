"""From the parts of a page to one HTML file, which needs no network.

Charts are specifications of Vega-Lite. Vega draws them as SVG in the reader's browser, so that text
and colours follow the page in light, dark and print. `vl-convert` brings the scripts of Vega in a
Python package.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

import vl_convert
from jinja2 import Environment
from markupsafe import Markup
from platformdirs import user_cache_path

from mupl.files import write_atomically
from mupl.report.page.colors import series_colors, style
from mupl.report.page.elements import Charts, Finding, Section

SIGNS = {"pass": "✓ pass", "fail": "✗ fail", "warn": "! note", "": "→"}


def render(
    title: str, lead: str, findings: Sequence[Finding], sections: Sequence[Section], footer: str
) -> str:
    """Return the page.

    Args:
        title: of the page.
        lead: a line below the title.
        findings: what comes first, in words.
        sections: what comes then.
        footer: the last line.
    """
    environment = Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(_file("template.html"))
    return template.render(
        title=title,
        lead=lead,
        findings=findings,
        sections=sections,
        footer=footer,
        signs=SIGNS,
        css=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        library=Markup(_library()),
        script_json=_script_json,
        color_style=_color_style,
    )


def _file(name: str) -> str:
    return resources.files("mupl.report.page").joinpath(name).read_text()


@cache
def _library() -> str:
    """Return the scripts of Vega, Vega-Lite and Vega-Embed as one.

    They take over a second to bundle, so they are kept in the user's cache folder.
    """
    file = user_cache_path("mupl") / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text()
    scripts = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets a default
    scripts = scripts.replace("</script", r"<\/script")
    with suppress(OSError):  # such as a home folder that is read-only
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, scripts)
    return scripts


def _script_json(spec: Mapping[str, Any]) -> Markup:
    """Return JSON that no text in it can end as a script early."""
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", r"\u003c"))


def _color_style(charts: Charts) -> str:
    return style(series_colors(max(1, len(charts.series))))
