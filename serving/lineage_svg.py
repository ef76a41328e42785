"""A feature's lineage as an SVG: from the columns of raw files to what is answered.

Colours come from the page's style sheet by class; without one it is drawn in the text's colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

WIDTH, HEIGHT, ACROSS, DOWN, TOP = 146, 54, 29, 10, 26
CHARACTERS = 20  # that fit into a line of a box, which has two for its name
DASHES = {"value": "", "filter": "5 4", "join key": "1.5 3.5"}
HEADS = ("Raw file", "Staging", "Model", "Feature", "Computed from it", "Answer, training set")


@dataclass
class _Node:
    label: str
    below: str = ""
    link: str = ""
    here: bool = False
    x: float = 0
    y: float = 0


@dataclass
class _Drawing:
    layers: list[list[_Node]] = field(default_factory=lambda: [[] for _ in HEADS])
    edges: list[tuple[_Node, _Node, str]] = field(default_factory=list)

    def node(self, layer: int, label: str, below: str = "", **more: Any) -> _Node:
        for known in self.layers[layer]:
            if known.label == label:
                return known
        made = _Node(label, below, **more)
        self.layers[layer].append(made)
        return made


def lineage_svg(feature: Mapping[str, Any]) -> str:
    """The drawing of an answer of GET /catalogue/{feature}."""
    drawing = _Drawing()
    name = f"{feature['view']}.{feature['name']}"
    place = 4 if feature["on_demand"] else 3
    here = drawing.node(place, feature["name"], _unit(feature), here=True)
    if feature["on_demand"]:
        for source in feature["inputs"]:
            of = f"{source['view']}.{source['name']}"
            link = f"/browse?feature={quote(of)}"
            made = drawing.node(3, source["name"], source["view"], link=link)
            for use in source["raw"]:
                drawing.edges.append((_raw(drawing, use), made, _kind(use)))
            drawing.edges.append((made, here, "value"))
        for given in feature["request"]:
            made = drawing.node(3, given["name"], "from the request")
            drawing.edges.append((made, here, "value"))
    else:
        _from_raw(drawing, feature, here)
        for view in feature["computed"]:
            made = drawing.node(4, view, "on-demand view")
            drawing.edges.append((here, made, "value"))
    for service in feature["services"]:
        of = service["field"] if service["field"] != feature["name"] else ""
        made = drawing.node(5, service["name"], f"as {of}" if of else "feature service")
        drawing.edges.append((here, made, "value"))
    return _svg(drawing, name)


def _from_raw(drawing: _Drawing, feature: Mapping[str, Any], here: _Node) -> None:
    model = drawing.node(2, feature["view"], "dbt model")
    staging = {of["table"]: of["model"] for of in feature["models"]}
    strongest: dict[str, str] = {}
    for use in feature["raw"]:
        via = staging.get(use["table"], use["table"])
        to = drawing.node(1, via, "staging view")
        drawing.edges.append((_raw(drawing, use), to, _kind(use)))
        if strongest.get(via) != "value":
            strongest[via] = _kind(use)
    for via, kind in strongest.items():
        drawing.edges.append((drawing.node(1, via), model, kind))
    drawing.edges.append((model, here, "value"))


def _raw(drawing: _Drawing, use: Mapping[str, Any]) -> _Node:
    kinds = ", ".join(use["kinds"])
    return drawing.node(0, f"{use['table']}.{use['column']}", kinds)


def _kind(use: Mapping[str, Any]) -> str:
    return "value" if "value" in use["kinds"] else str(use["kinds"][0])


def _unit(feature: Mapping[str, Any]) -> str:
    return str(feature["unit"] or feature["type"])


def _svg(drawing: _Drawing, name: str) -> str:
    used = [(head, layer) for head, layer in zip(HEADS, drawing.layers, strict=True) if layer]
    most = max(len(layer) for _, layer in used)
    height = TOP + most * (HEIGHT + DOWN)
    width = len(used) * (WIDTH + ACROSS) - ACROSS
    parts = []
    for column, (head, layer) in enumerate(used):
        x = column * (WIDTH + ACROSS)
        parts.append(f'<text class="head" x="{x}" y="12" font-size="12">{head}</text>')
        start = TOP + (height - TOP - len(layer) * (HEIGHT + DOWN)) / 2
        for row, node in enumerate(layer):
            node.x, node.y = x, start + row * (HEIGHT + DOWN)
    lines = [_line(*edge) for edge in drawing.edges]
    boxes = [_box(node) for _, layer in used for node in layer]
    about = escape(f"Lineage of {name}: {_told(drawing)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" role="img" aria-label="{about}" '
        f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" fill="currentColor">'
        + "".join(parts + lines + boxes)
        + "</svg>"
    )


def _told(drawing: _Drawing) -> str:
    return "; ".join(
        f"{head}: {', '.join(node.label for node in layer)}"
        for head, layer in zip(HEADS, drawing.layers, strict=True)
        if layer
    )


def _line(start: _Node, end: _Node, kind: str) -> str:
    x, y = start.x + WIDTH, start.y + HEIGHT / 2
    to_x, to_y = end.x, end.y + HEIGHT / 2
    middle = (x + to_x) / 2
    dash = f' stroke-dasharray="{DASHES[kind]}"' if DASHES[kind] else ""
    style = kind.replace(" ", "-")
    return (
        f'<path class="edge {style}" fill="none" stroke="currentColor" stroke-opacity="0.6"{dash} '
        f'd="M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}">'
        f"<title>{kind}</title></path>"
    )


def _box(node: _Node) -> str:
    first, second = _wrapped(node.label)
    lines = [("label", first, 18), ("label", second, 31), ("below", _short(node.below), 45)]
    if not second:
        lines = [("label", first, 23), ("below", _short(node.below), 39)]
    texts = "".join(
        f'<text class="{style}" x="{node.x + 9:g}" y="{node.y + down:g}" '
        f'font-size="{10.5 if style == "label" else 9.5}">{escape(text)}</text>'
        for style, text, down in lines
    )
    box = (
        f'<g class="node{" here" if node.here else ""}"><title>{escape(node.label)}</title>'
        f'<rect x="{node.x:g}" y="{node.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="none" '
        f'stroke="currentColor" stroke-width="{2 if node.here else 1}"/>{texts}</g>'
    )
    return f'<a href="{escape(node.link)}">{box}</a>' if node.link else box


def _wrapped(label: str) -> tuple[str, str]:
    """A name in two lines, parted at a dot or underscore, where it is too long for one."""
    if len(label) <= CHARACTERS:
        return label, ""
    head = label[:CHARACTERS]
    at = max(head.rfind("."), head.rfind("_")) + 1 or CHARACTERS
    return label[:at], _short(label[at:])


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"
