"""The documented REST API over the gRPC `ModelService`.

`create_app` builds the ASGI application; the command `rest-bridge` serves it. The bridge keeps no
state: each request becomes one call of the service, and its answer becomes the documented JSON.
"""

from rest_bridge.app import create_app
from rest_bridge.settings import Settings

__all__ = ["Settings", "create_app"]
