"""The documented endpoints, a file for each subject; each makes one call of the service."""

from rest_bridge.routes import generate, model, models, named, ollama, streams

# The router tries one after the other: those that are called most come first.
ROUTES = [
    *generate.router.routes,
    *models.router.routes,
    *model.router.routes,
    *streams.router.routes,
    *named.router.routes,
    *ollama.router.routes,
]
