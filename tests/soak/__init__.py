"""Mixed work for minutes on end, and whether the service stays as small as it was."""
