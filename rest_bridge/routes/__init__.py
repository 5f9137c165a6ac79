"""The documented endpoints; each is one call of the service."""

from rest_bridge.routes import generate, models, streams

ROUTES = [*models.router.routes, *streams.router.routes, *generate.router.routes]
