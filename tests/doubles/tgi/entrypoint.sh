#!/bin/sh
# As in TGI's image, the arguments are split at blanks.
export PYTHONPATH=/usr/src
exec python3 -m tgi_double $@
