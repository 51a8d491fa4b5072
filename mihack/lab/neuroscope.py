"""A page for the units of a model: what fires them most, and your own text as you type it.

    pip install "gradio>=6,<7"
    python -m lab.neuroscope                               # gelu-1l, on http://127.0.0.1:7860
    python -m lab.neuroscope --model smollm2-135m --layers 10 11 12
    python -m lab.neuroscope --dictionary sae.safetensors --hook blocks.0.hook_resid_post

TransformerLens's demo Interactive_Neuroscope uses gradio, and so does this page.  It is served to this
machine alone, and asks nothing of any other.  ``scope`` reads the model; typed text is escaped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .data import DataError
from .models import ModelError
from .scope import Scope, Site, open_scope

HERE = "127.0.0.1"
LONGEST = 4000  # characters of typed text that are read
START = "My fellow citizens, the United States are at peace with the whole world, and in 1862 we"
MARKS = {"\n": "⏎", "\t": "→", "\r": "↵"}
BLUE, ORANGE = "0,114,178", "230,159,0"
STYLE = """
.ns-text { font-family: ui-monospace, monospace; line-height: 1.9; overflow-wrap: anywhere; margin: 0.2em 0; }
.ns-token { white-space: pre-wrap; padding: 0.15em 0; border-bottom: 2px solid transparent;
  border-radius: 2px; margin-right: 2px; }
.ns-here { border-bottom-color: currentColor; font-weight: bold; }
.ns-value { display: inline-block; min-width: 4em; margin-right: 0.8em; text-align: right; }
.ns-head { font-weight: bold; margin: 0.8em 0 0.2em; }
"""


def shade(value: float | None, extreme: float) -> str:
    """The background of a value: at most 60 percent, so that letters stay legible in light and dark."""
    if value is None or value == 0:
        return "background-color:transparent"
    hue = BLUE if value > 0 else ORANGE
    return f"background-color:rgba({hue},{0.6 * min(1.0, abs(value) / max(extreme, 1e-9)):.3f})"


def visible(token: str) -> str:
    """A token as text of a page: escaped, its line ends and tabs marked."""
    return escape("".join(MARKS.get(letter, letter) for letter in token) or "∅")


def coloured(
    tokens: Sequence[str], values: Sequence[float | None], extreme: float, here: int | None = None
) -> str:
    """Tokens as markup, each coloured by its value, which its title says too."""
    spans = []
    for at, (token, value) in enumerate(zip(tokens, values, strict=True)):
        title = "" if value is None else f' title="{value:.3g}"'
        kind = "ns-token ns-here" if at == here else "ns-token"
        spans.append(f'<span class="{kind}" style="{shade(value, extreme)}"{title}>{visible(token)}</span>')
    return "".join(spans)


def lit(scope: Scope, site: Site, unit: int, tokens: Sequence[str], values: Sequence[float]) -> str:
    """A typed text in the colours of one unit, and where it is strongest, in words."""
    if not tokens:
        return '<p class="ns-text">Type something: there is no token yet.</p>'
    largest = scope.largest(site, unit)
    order = sorted(range(len(tokens)), key=lambda at: -values[at])[:3]
    best = ", ".join(f"“{visible(tokens[at].strip(' '))}” {values[at]:.3g}" for at in order)
    share = values[order[0]] / max(largest, 1e-9)
    text = coloured(tokens, values, largest)
    said = (
        f"{site.kind} {unit}, strongest on {best}: {share:.0%} of its largest value in the text that was read"
    )
    return f'<p class="ns-text">{text}</p><p>{said}</p>'


def places(scope: Scope, site: Site, unit: int) -> str:
    """The strongest places of a unit and a uniform sample, as markup."""
    largest = scope.largest(site, unit)
    lines = [f"<p>{escape(scope.about(site, unit))}</p>"]
    for name, shown in scope.places(site, unit).items():
        lines.append(f'<p class="ns-head">{name}</p>')
        for example, values in shown:
            text = coloured(example.tokens, values, largest, example.at)
            lines.append(
                f'<div class="ns-text"><span class="ns-value">{example.value:.3g}</span>{text}</div>'
            )
    return "".join(lines)


class Page:
    """What the page answers: each method is one event, from the chosen units and the typed text."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def chosen(self, part: str, unit: float | None) -> tuple[Site, int]:
        """The site and a unit that it has, whatever was typed into the field."""
        site = self.scope.sites[part]
        return site, min(max(int(unit or 0), 0), site.count - 1)

    def typed(self, text: str, part: str, unit: float | None) -> tuple[str, Any]:
        """The text in the unit's colours, and the units of this part that it drives furthest."""
        site, number = self.chosen(part, unit)
        tokens, values = self.scope.read(text[:LONGEST], site)
        choices = self.driven(site, tokens, values)
        chosen = number if number in [value for _, value in choices] else None
        shown = lit(self.scope, site, number, tokens, values[:, number].tolist())
        return shown, _gradio().update(choices=choices, value=chosen)

    def driven(self, site: Site, tokens: Sequence[str], values: Any) -> list[tuple[str, int]]:
        """Choices of units: (what the text does to it, its number)."""
        found = []
        for unit, far in self.scope.unusual(values, site):
            token = tokens[int(values[:, unit].argmax())].strip() or "a space"
            found.append((f"{unit}: {far:.1f} sd above its mean, on “{token[:20]}”", unit))
        return found

    def looked_up(self, part: str, unit: float | None) -> str:
        """The places of the chosen unit."""
        return places(self.scope, *self.chosen(part, unit))

    def another(self, part: str) -> int:
        """Any unit of this part."""
        return random.randrange(self.scope.sites[part].count)


def _gradio() -> Any:
    # gradio counts its users on the web unless told not to, and asks the proxy for this machine's own page
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("NO_PROXY", "no_proxy"):
        if HERE not in os.environ.get(name, ""):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name), HERE, "localhost"]))
    return importlib.import_module("gradio")


def page(scope: Scope, name: str) -> Any:
    """The page as gradio's Blocks; ``launch`` shows it.  Raises ImportError without gradio."""
    gr, answers = _gradio(), Page(scope)
    parts = list(scope.sites)
    at_once = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}
    with gr.Blocks(title=f"Neuroscope: {name}", analytics_enabled=False) as made:
        gr.Markdown(f"# Neuroscope: {name}")
        with gr.Row():
            part = gr.Dropdown(parts, value=parts[0], label="part of the model", scale=2, min_width=240)
            unit = gr.Number(0, precision=0, minimum=0, label="which unit")
            other = gr.Button("another one")
        text = gr.Textbox(START, label="your own text", lines=2, max_lines=6, elem_id="typed")
        shown = gr.HTML(elem_id="lit")
        fired = gr.Radio([], label="driven furthest by this text (choose one to look at it)")
        about = gr.HTML(elem_id="places")
        typed = {"inputs": [text, part, unit], "outputs": [shown, fired], **at_once}
        looked = {"inputs": [part, unit], "outputs": about, **at_once}
        text.input(answers.typed, **typed)
        for changed in (part, unit):
            changed.change(answers.typed, **typed)
            changed.change(answers.looked_up, **looked)
        other.click(answers.another, part, unit, **at_once)
        fired.input(lambda chosen: chosen, fired, unit, **at_once)
        made.load(answers.typed, **typed)
        made.load(answers.looked_up, **looked)
    return made


def launch(made: Any, port: int | None = None, *, block: bool = True) -> str:
    """Serve the page on this machine alone and return its address; with ``block``, until Ctrl-C.

    Raises OSError if the port is taken, or no port from 7860 on is free.
    """
    try:
        _, url, _ = made.launch(
            server_name=HERE, server_port=port, share=False, quiet=True, css=STYLE, footer_links=[],
            ssr_mode=False, prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:  # gradio's own words name its variables, not our --port
        wanted = "no port from 7860 on is free" if port is None else f"port {port} is taken"
        raise OSError(f"The page cannot be served: {wanted}. Choose another with --port") from error
    told = f"The page is at {url} (Ctrl-C ends it)"
    if not block:
        print(told, flush=True)
        return str(url)
    try:
        print(told, flush=True)  # inside: Ctrl-C may come as soon as the address can be read
        made.block_thread()
    except KeyboardInterrupt:
        pass
    finally:
        made.close()
    return str(url)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m lab.neuroscope``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gelu-1l", help="embedded model, smollm2-135m, folder or hub name")
    parser.add_argument("--text", default="speeches", help="a text in texts/, a file, a folder, python-docs")
    parser.add_argument("--tokens", type=int, help="how many to read (200,000; of a larger model 10,000)")
    parser.add_argument("--layers", type=int, nargs="+", help="only these layers")
    parser.add_argument("--dictionary", type=Path, help="a sparse autoencoder that lab.sae saved")
    parser.add_argument("--hook", help="the hook that the dictionary reads")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--device", default="auto")
    flags = parser.parse_args(arguments)
    try:
        _gradio()
    except ImportError:
        print('The page wants gradio: pip install "gradio>=6,<7"', file=sys.stderr)
        return 2
    print(f"Reading {flags.text} with {flags.model}; the scan is kept in data/ for the next time", flush=True)
    try:
        scope = open_scope(
            flags.model, flags.text, tokens=flags.tokens, layers=flags.layers,
            dictionary=flags.dictionary, hook=flags.hook, device=flags.device,
        )  # fmt: skip
        launch(page(scope, Path(flags.model).name), flags.port)
    except (ModelError, DataError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
