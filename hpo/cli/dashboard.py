"""The command that shows runs in a browser: `hpo dashboard`."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.options import FOLDER, existing

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL

    from hpo.dashboard.catalog import Catalog

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.argument("folder", default=Path("runs"), type=FOLDER, metavar="[DIR]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Where to listen; 0: any free one [default: 8050, else the next free one].",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--storage",
    metavar="URL",
    help="The studies' database [default: HPO_STORAGE, else hpo.db in DIR or beside it].",
)
@click.option(
    "--data",
    multiple=True,
    type=FOLDER,
    help="Prepared data that runs may be compared with, beside that of the studies. Repeatable.",
)
@click.option("--allow-edit", is_flag=True, help="Let optuna-dashboard change the studies.")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
def dashboard(
    folder: Path,
    port: int | None,
    host: str,
    storage: str | None,
    data: tuple[Path, ...],
    allow_edit: bool,
    open_it: bool,
) -> None:
    """Compare runs in a browser, as they go on.

    optuna-dashboard stands beside them. DIR holds studies, or is one; it may also hold run JSONs of
    the thesis. The page opens only at the printed address, with its token.

    \b
        hpo dashboard
        hpo dashboard runs/bbh --port 9000 --open
    """
    import secrets

    from hpo.dashboard import app, optuna_page
    from hpo.dashboard.catalog import Catalog
    from hpo.dashboard.density.draws import Densities
    from hpo.dashboard.server import application, listen, serve, until_ended

    catalog = Catalog(folder)
    url = _database(storage, folder)
    opened = _opened(url, allow_edit, needed=storage is not None) if url else None
    with until_ended(), listen(host, port) as listening:
        number = listening.getsockname()[1]
        known = optuna_page.data_folders(opened, folder) if opened else []
        densities = Densities(catalog, data, known)
        studies = functools.partial(optuna_page.studies, opened) if opened else None
        progress = functools.partial(optuna_page.progress, opened, folder) if opened else None
        dash = app.create(catalog, densities=densities, studies=studies, progress=progress)
        token = secrets.token_urlsafe(32)
        wsgi = application(
            dash.server,
            optuna_page.wsgi(opened) if opened else None,
            token=token,
            allow_edit=allow_edit,
            host=host,
            script_hashes=dash.csp_hashes(),
        )
        address = f"http://{_named(host)}:{number}/runs/?token={token}"
        _tell(address, catalog, url if opened else None, host=host, port=number)
        with _opening(address) if open_it else contextlib.nullcontext():
            serve(wsgi, listening)
    # At once: torch aborts a process that ends in the usual way while a density is still computed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _database(storage: str | None, folder: Path) -> URL | None:
    """The database that was named, or that of the runs; None where they have none."""
    from hpo.storage.address import named, url_of

    if named(storage):
        return existing(url_of(storage, folder))
    of_study = any(folder.glob("trial-*/"))
    places = [folder, folder.absolute().parent] if of_study else [folder]
    urls = [url_of(None, place) for place in places]
    return next((url for url in urls if Path(url.database or "").is_file()), None)


def _opened(url: URL, allow_edit: bool, *, needed: bool) -> RDBStorage | None:
    """The storage, without retries: a page that waits for a server keeps the others waiting."""
    from hpo.storage.address import StorageError
    from hpo.storage.open import open_storage

    try:
        return open_storage(url, reading=not allow_edit, retrying=False)
    except StorageError as error:
        if needed:
            raise
        click.echo(f"Warning: {error}. The runs are shown without Optuna's pages.", err=True)
        return None


def _tell(address: str, catalog: Catalog, url: URL | None, *, host: str, port: int) -> None:
    from hpo.storage.address import masked

    catalog.refresh()
    click.echo(f"dashboard  {address}")
    click.echo(f"runs       {len(catalog.rows())} in {catalog.folder}")
    click.echo(f"studies    {masked(url) if url else 'no database: only the runs are shown'}")
    if host not in LOOPBACK:
        text = (
            f"whoever reaches {host} can knock here, and what is sent, the token too, can be read "
            "on the way: prefer --host 127.0.0.1 and ssh -L"
        )
        click.echo(f"Warning: {text}", err=True)
    elif "SSH_CONNECTION" in os.environ or not any(map(os.environ.get, DISPLAYS)):
        click.echo(f"from home  ssh -L {port}:localhost:{port} {socket.gethostname()}")
    click.echo("Ctrl-C ends it.")


def _named(host: str) -> str:
    """The host as an address has it."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _opening(address: str) -> Iterator[None]:
    """Open the browser by way of a file of the user's: everyone can read a command line."""
    import webbrowser

    with tempfile.NamedTemporaryFile("w", prefix="hpo-dashboard-", suffix=".html") as file:
        file.write(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={address}">\n')
        file.flush()
        webbrowser.open(Path(file.name).as_uri())
        yield
