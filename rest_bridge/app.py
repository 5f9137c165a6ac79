"""The ASGI application: routes and error handlers."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from rest_bridge import health, openapi, pages, routes
from rest_bridge.access import Access, Guarded
from rest_bridge.dialects import document
from rest_bridge.dialects.call import Terms
from rest_bridge.dialects.endpoints import likely, shape_at
from rest_bridge.dialects.front import Front
from rest_bridge.dialects.shapes import of_service, status_of
from rest_bridge.dialects.ticker import Ticker
from rest_bridge.errors import BridgeError
from rest_bridge.hosts import Hosts
from rest_bridge.origins import Origins
from rest_bridge.proxies import Proxies
from rest_bridge.service import Service
from rest_bridge.settings import Settings

MAX_SHOWN_CHARACTERS = 80

_LOOK = 1.0  # seconds between two looks at the calls that are open


class Api(FastAPI):
    """The application; the check of access is around everything, Starlette's error 500 included."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            super().openapi()["paths"] |= document.paths()
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        return Guarded(super().build_middleware_stack(), self.state.access)


def create_app(service: Service, settings: Settings | None = None) -> FastAPI:
    """Build the REST API over a service.

    `settings` default to the environment; the application uses `keep_alive_seconds` and those of
    who may call.
    """
    settings = settings or Settings()
    app = Api(
        title="LLM Inference API",
        version="1.0",
        description=openapi.DESCRIPTION,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        # FastAPI would look for a recorder of traces in each request, and none is used here.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # One flat list of routes: in each request FastAPI would match a router that is included as
        # a whole, and then each of its routes.
        routes=[*routes.ROUTES, *health.router.routes, *pages.router.routes],
    )
    app.state.settings = settings
    app.state.service = service
    app.state.proxies = Proxies(settings.trusted_proxy)
    app.state.access = Access(Hosts(settings.allowed_host), Origins(settings.cors_origin))
    app.mount(pages.ASSETS, pages.assets())
    # No middleware: one that derives from BaseHTTPMiddleware hides the client's disconnect.
    app.add_exception_handler(BridgeError, show_error)
    app.add_exception_handler(HTTPException, show_routing_error)
    app.add_exception_handler(RequestValidationError, show_query_error)
    app.add_exception_handler(ClientDisconnect, show_disconnect)
    app.add_exception_handler(Exception, show_fault)
    return app


def front(app: FastAPI, early: float = 10.0) -> Front:
    """Return what takes the requests in the dialects of engines, before the application.

    The head of a stream leaves after `early` seconds, although the engine has not answered.
    """
    state, settings = app.state, app.state.settings
    ticker = Ticker(min(_LOOK, early, settings.keep_alive_seconds))
    terms = Terms(state.service, settings.max_body, settings.keep_alive_seconds, early, ticker)
    return Front(state.access, state.proxies, terms)


async def show_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BridgeError)
    if (shape := shape_at(request.url.path)) is not None:
        body, status = of_service(shape, error), status_of(error)
        return Response(body, status, error.headers, "application/json")
    return JSONResponse({"detail": error.detail}, error.http_status, error.headers)


async def show_routing_error(request: Request, error: Exception) -> Response:
    """Answer the router's 404 and 405 in the form of this API."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:MAX_SHOWN_CHARACTERS]
    advice = f"is it {meant}?" if (meant := likely(path)) else "GET /docs shows all"
    detail = f"no endpoint {request.method} {path}; {advice}"
    headers = dict(error.headers or {})
    return await show_error(
        request,
        BridgeError("INVALID_PARAMETER", detail, http_status=error.status_code, headers=headers),
    )


async def show_query_error(request: Request, error: Exception) -> Response:
    """Report a query parameter that FastAPI refused; `body.py` checks bodies."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    detail = f"{first['loc'][-1]}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return await show_error(request, BridgeError("INVALID_PARAMETER", detail))


async def show_fault(request: Request, _: Exception) -> Response:
    """Report a bug of the bridge. Starlette then raises the exception again, for the log."""
    detail = "a fault of the REST bridge; its log has the details"
    return await show_error(request, BridgeError("INTERNAL", detail))


async def show_disconnect(_: Request, __: Exception) -> Response:
    """End a request whose client has left, with the status that nginx logs for that."""
    return Response(status_code=499)
