"""The documented endpoints, a file for each subject; each makes one call of the service."""

from rest_bridge.routes import generate, model, models, streams

# The router tries one after the other: those that are called most come first.
ROUTES = [
    *generate.router.routes,
    *models.router.routes,
    *streams.router.routes,
    *model.router.routes,  # its path, which takes names with slashes, fits those of logs too
]
