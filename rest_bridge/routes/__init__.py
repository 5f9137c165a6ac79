"""The documented endpoints, a file for each subject; each makes one call of the service."""

from rest_bridge.routes import generate, model, models, streams

ROUTES = [
    *models.router.routes,
    *model.router.routes,
    *streams.router.routes,
    *generate.router.routes,
]
