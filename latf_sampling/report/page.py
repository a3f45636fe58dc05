"""HTML of the pages: all text is escaped here, and figures are inline SVG in the page's colors."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Sequence
from importlib import resources

from latf_sampling.report.charts import FIGURE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""What a browser may load for a page: nothing from elsewhere."""


def document(title: str, sections: Sequence[str], numbers: dict, scripts: Sequence[str] = ()) -> str:
    """A complete page; its programs run after all of it is read."""
    style = resources.files("latf_sampling.report").joinpath("style.css").read_text(encoding="utf-8")
    block = json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style></head>",
            "<body><main>",
            _numbered("\n".join(sections)),
            "</main>",
            f'<script type="application/json" id="numbers">\n{block}\n</script>',
            *(f"<script>\n{script}\n</script>" for script in scripts),
            "</body></html>",
            "",
        ]
    )


def _numbered(text: str) -> str:
    """Number the figures, in their captions and in their ids."""
    counter = itertools.count(1)

    def number(match: re.Match) -> str:
        index = next(counter)
        return match[0].replace(_MARK, f"Figure {index}. ").replace(FIGURE, f"figure-{index}-")

    return re.sub(r"<figure\b[^>]*>.*?</figure>", number, text, flags=re.DOTALL)


_MARK = "\x00"


def escape(text: object) -> str:
    """Text as HTML; a number stays on one line with its unit."""
    text = re.sub(r"(?<=\d) (?=(?:K|kJ/mol|ns|ps|min|s|h|%|±|σ)(?:\W|$))|(?<=±) ", "\u00a0", str(text))
    return html.escape(text.replace(_MARK, "").replace(FIGURE, ""))


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def missing(text: str) -> str:
    """A paragraph about something that does not exist yet."""
    return paragraph(text, "missing")


def figure(svg: str, caption: str, kind: str = "") -> str:
    tag = f'<figure class="{kind}">' if kind else "<figure>"
    return f"{tag}{svg}<figcaption>{_MARK}{escape(caption)}</figcaption></figure>"


def figures(*figures: str) -> str:
    """Figures side by side where the page is wide enough."""
    return '<div class="figures">\n' + "\n".join(figures) + "\n</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose first column is text; the others are aligned to the right."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def details(summary: str, *parts: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def cards(entries: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers at the top of the page: label, value, and a note below."""
    boxes = (
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for label, value, note in entries
    )
    return '<div class="cards">\n' + "\n".join(boxes) + "\n</div>"


def shares(entries: Sequence[tuple[str, float, str]]) -> str:
    """A bar divided into shares: label, fraction, color; negative fractions are left out."""
    bars = "".join(
        f'<span style="width:{100 * max(share, 0.0):.2f}%;background:{color}" title="{escape(label)}"></span>'
        for label, share, color in entries
    )
    keys = "".join(
        f'<li><i style="background:{color}"></i>{escape(label)} {100 * share:.0f} %</li>'
        for label, share, color in entries
    )
    return f'<div class="shares">{bars}</div><ul class="keys">{keys}</ul>'
