"""The documented REST API over the gRPC `ModelService`.

`create_app` builds the ASGI application; the command `rest-bridge` serves it. The bridge keeps no
state: each request becomes one call of the service, and its answer becomes the documented JSON.
"""

from typing import TYPE_CHECKING, Any

from rest_bridge.settings import Settings

if TYPE_CHECKING:
    from rest_bridge.app import create_app

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    # FastAPI has 13 MB, which a service that reads these settings and has no REST need not hold.
    if name == "create_app":
        from rest_bridge.app import create_app

        return create_app
    raise AttributeError(name)
