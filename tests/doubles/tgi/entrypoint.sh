#!/bin/sh
# Like the image's own: the arguments are split again, so one with blanks needs its variable.
export PYTHONPATH=/usr/src
exec python3 -m tgi_double $@
