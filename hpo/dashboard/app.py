"""The Dash application: it routes an address to a page of `pages/`, and frames all pages alike.

No callback changes anything on disk.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dash
import flask
from dash import Input, Output, State, dcc, html

from data_prep.errors import InputError
from data_prep.untrusted import parse
from hpo.dashboard import address, parts
from hpo.dashboard.address import Query
from hpo.dashboard.catalog import Catalog
from hpo.dashboard.density.draws import Densities
from hpo.dashboard.pages import comparison, emulators, overview, run
from hpo.dashboard.parts import EVERY_MS, Site, notice
from hpo.dashboard.runs.spark import spark

if TYPE_CHECKING:
    from hpo.study.status import StudyStatus

ASSETS = Path(__file__).parent / "assets"

_DCC = f"{address.ROOT}_dash-component-suites/dash/dcc/async-"
EARLY = (
    f"{address.ROOT}_dash-component-suites/plotly/package_data/plotly.min.js",
    *(f"{_DCC}{part}.js" for part in ("graph", "slider", "dropdown")),
)
"""Scripts that Dash asks for only when it meets a graph, a slider or a choice: most of the time
until the first picture of a page was waiting for them."""


def create(
    catalog: Catalog,
    *,
    densities: Densities | None = None,
    studies: Callable[[], dict[str, int]] | None = None,
    progress: Callable[[], list[StudyStatus]] | None = None,
) -> dash.Dash:
    """The Dash application, to be mounted at `/runs`.

    Args:
        catalog: The runs.
        densities: Draws of their flows; without it the runs' pages show no densities.
        studies: Gives optuna-dashboard's number of each study by its name, if it is mounted, too.
        progress: Gives the state of the studies that are not done, if there is a database.
    """
    _load_pandas()
    site = Site(catalog=catalog, densities=densities, studies=studies, progress=progress)
    app = _Pages(
        "hpo",
        assets_folder=str(ASSETS),
        requests_pathname_prefix=address.ROOT,
        routes_pathname_prefix="/",
        suppress_callback_exceptions=True,
        title="hpo runs",
        update_title="",
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    _link_back(app.server, site)
    _refuse_strange_requests(app)
    app.layout = lambda: _shell(site)
    _route(app, site)
    for page in (overview, comparison, run):
        page.register(app, site)
    return app


class _Pages(dash.Dash):
    """Dash, whose pages but the first, a table, ask at once for the scripts of their pictures."""

    def interpolate_index(self, **given: Any) -> str:  # type: ignore[override]
        links = map('<link rel="preload" as="script" href="{}">'.format, EARLY)
        early = "" if flask.request.path == "/" else "".join(links)
        given["css"] = early + given["css"]
        return str(super().interpolate_index(**given))  # type: ignore[no-untyped-call]


def _load_pandas() -> None:
    """Load pandas, where it is installed at all, before there are threads.

    Plotly uses pandas if another module loaded it; in a thread it may find pandas half-loaded,
    while pyarrow loads it in another thread.
    """
    if importlib.util.find_spec("pandas") is not None:
        importlib.import_module("pandas")


def _shell(site: Site) -> html.Div:
    links = [html.A("Runs", href=address.ROOT), html.A("Emulators", href=address.EMULATORS)]
    if site.studies is not None:
        links.append(html.A("Optuna", href="/dashboard", title="optuna-dashboard"))
    head = [
        html.A("hpo", href=address.ROOT, className="brand"),
        html.Nav(links),
        html.Span(str(site.catalog.folder), className="place", title="The runs' folder"),
        html.Button(
            "◐",
            id="theme-switch",
            className="plain",
            title="Light or dark",
            **parts.named("Light or dark"),
        ),
    ]
    return html.Div(
        [
            html.A("To the content", href="#page", className="skip"),
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="theme", storage_type="local"),
            dcc.Interval(id="tick", interval=EVERY_MS),
            html.Header(head),
            html.Main(id="page", tabIndex=-1),
        ]
    )


def _route(app: dash.Dash, site: Site) -> None:
    @app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))
    def show(pathname: str | None, search: str | None) -> object:
        site.catalog.refresh()
        query = Query.read(search)
        if pathname in (None, address.ROOT, address.ROOT.rstrip("/")):
            return overview.layout(site, query)
        if pathname == address.COMPARE:
            return comparison.layout(site, query)
        if pathname == address.EMULATORS:
            return emulators.layout(site)
        key = address.run_in(pathname or "")
        if key is None:
            return [parts.title("No such page", parts.back()), notice(f"There is no {pathname}.")]
        return run.layout(site, key)

    app.clientside_callback(  # type: ignore[no-untyped-call]
        dash.ClientsideFunction("page", "title"), Input("page", "children")
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        dash.ClientsideFunction("page", "theme"),
        Output("theme", "data"),
        Input("theme-switch", "n_clicks"),
        State("theme", "data"),
    )


def _refuse_strange_requests(app: dash.Dash) -> None:
    """Answer requests that no page of ours makes; Dash would end in an error."""

    def no_such_file(_error: Exception) -> flask.typing.ResponseReturnValue:
        return "There is no such file.\n", 404

    def refuse() -> flask.typing.ResponseReturnValue | None:
        asks = flask.request.path == "/_dash-update-component" and flask.request.method == "POST"
        if asks and not _is_of_a_page(app, flask.request.get_data()):
            return "No page asks for this.\n", 400
        return None

    app.server.register_error_handler(dash.exceptions.DependencyException, no_such_file)
    app.server.before_request(refuse)


def _is_of_a_page(app: dash.Dash, body: bytes) -> bool:
    """Whether a request names a callback, and a value for each of its inputs and states."""
    try:
        asked = parse(body)
    except ValueError:
        return False
    known = app.callback_map.get(str(asked.get("output"))) if isinstance(asked, dict) else None
    if known is None or not isinstance(asked.get("changedPropIds", []), list):
        return False
    given = {name: asked.get(name, []) for name in ("inputs", "state")}
    return all(
        isinstance(values, list) and len(values) == len(known[name])
        for name, values in given.items()
    )


def _link_back(server: flask.Flask, site: Site) -> None:
    """Addresses beside the pages: curves of runs, and the links of optuna-dashboard's pages."""

    def name_of(study: int) -> str | None:
        known = site.studies() if site.studies else {}
        return next((name for name, number in known.items() if number == study), None)

    @server.get("/spark/<path:key>.svg")
    def of_curve(key: str) -> flask.typing.ResponseReturnValue:
        try:
            return flask.Response(spark(site.catalog.record(key)), mimetype="image/svg+xml")
        except (KeyError, InputError):
            return "There is no such run.\n", 404

    @server.get("/study/<int:study>")
    def of_study(study: int) -> flask.typing.ResponseReturnValue:
        name = name_of(study)
        where = Query(where=f"study == {name!r}") if name is not None else Query()
        return flask.redirect(address.ROOT + str(where))

    @server.get("/trial/<int:study>/<int:number>")
    def of_trial(study: int, number: int) -> flask.typing.ResponseReturnValue:
        site.catalog.refresh()
        name = name_of(study)
        for row in site.catalog.rows():
            if row["study"] == name and row["trial"] == number:
                return flask.redirect(address.of_run(str(row["run"])))
        return of_study(study)
