"""Minutes of mixed work, after which the service has to be as small as before."""
