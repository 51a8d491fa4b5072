"""`mihack site`: the catalogue as a web site, in a folder or on this computer."""

from __future__ import annotations

from pathlib import Path

import click

from mihack.commands.options import catalog_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mihack.site.pages import Pages

FOLDER = "site"


@click.group(
    "site",
    epilog="Example: mihack site serve",
    short_help="Build the catalogue as a web site, or look at it.",
)
def site_command() -> None:
    """Build the catalogue as a web site, or look at it in the browser."""


@site_command.command(
    "build",
    epilog="Example: mihack site build public",
    short_help="Write the site into a folder.",
)
@click.argument("folder", metavar="[DIR]", default=FOLDER, type=click.Path(path_type=Path))
@catalog_option
def build_command(folder: Path, catalog: tuple[str, ...]) -> None:
    """Write the site into DIR (default: site).

    It needs no server: open DIR/index.html, or put DIR on any static host. An earlier site in DIR
    is replaced; a folder with anything else in it is refused.
    """
    from mihack.site.write import refuse, write

    refuse(folder.absolute())
    made = _pages(catalog)
    write(made, folder)
    click.echo(str(folder / "index.html"))
    size = sum(map(len, made.values()))
    click.echo(f"{len(made)} files, {size / 1e6:.1f} MB: open it, or put them on a static host.", err=True)


@site_command.command(
    "serve",
    epilog="Example: mihack site serve --port 8000",
    short_help="Build it and open it in the browser.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port. Default: a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@catalog_option
def serve_command(port: int, no_browser: bool, catalog: tuple[str, ...]) -> None:
    """Build the site in a temporary folder and show it in the browser until Ctrl-C.

    Only this computer can reach it.
    """
    import contextlib
    import tempfile

    from mihack.scaffold.write import signals_raise
    from mihack.site.serve import server, url
    from mihack.site.write import write

    with signals_raise(), tempfile.TemporaryDirectory(prefix="mihack-site-") as place:
        folder = Path(place) / "site"
        write(_pages(catalog), folder)
        with server(folder, port) as made, contextlib.suppress(KeyboardInterrupt):
            click.echo(url(made))
            click.echo("Ctrl-C ends it.", err=True)
            if not no_browser:
                import webbrowser

                webbrowser.open(url(made))
            made.serve_forever()


def _pages(catalog: tuple[str, ...]) -> Pages:
    """Every page, with progress where there are very many."""
    from mihack.catalog.index import load
    from mihack.catalog.layers import reading
    from mihack.shipped import gallery_dir
    from mihack.site.pages import pages, read_figures

    index = load(catalog, cache=True)
    with reading("Making the pages") as progress:
        return pages(index, read_figures(index, gallery_dir()), progress)
